//! Restores that are asked for over the API: where they may go, what confirms them, and what may be chosen.

use serde_json::{Value, json};

use crate::api::{BACKUPS, at, made};
use crate::harness::api::Api;

/// Row 84: a restore goes into a configured target alone, and is confirmed by its database's name where that is asked.
#[test]
fn a_restore_into_the_wrong_database_is_not_possible() {
    let mut api = Api::start();
    let id = made(&api);
    let restore = at(id, "/restore");
    let name = api.service.database.name.clone();
    let refused = |api: &Api, code: &str, body: Value| {
        api.problem(422, code, ("POST", &restore, &body.to_string()));
    };
    for target in ["other", "postgres://somebody@elsewhere/shop", ""] {
        refused(&api, "target_unknown", json!({"target": target}));
    }
    // Another target's backup goes into this one only where that is said.
    let named = |target: &str| {
        let sql = format!("UPDATE pgseal.backups SET target = '{target}'");
        api.service.catalog.psql(&sql);
    };
    named("shop");
    refused(&api, "target_unknown", json!({}));
    refused(&api, "target_unknown", json!({"plan": true}));
    let plan = api.json(
        200,
        "POST",
        &restore,
        r#"{"plan": true, "target": "default"}"#,
    );
    assert_eq!(
        (&plan["target"], &plan["confirm"]),
        (&json!("default"), &json!(name))
    );
    refused(&api, "confirmation_required", json!({"target": "default"}));
    named("default");
    refused(&api, "confirmation_required", json!({"safety": "skip"}));
    refused(
        &api,
        "confirmation_wrong",
        json!({"safety": "skip", "confirm": "shop2"}),
    );
    refused(
        &api,
        "confirmation_wrong",
        json!({"confirm": name.to_uppercase()}),
    );
    for body in [
        json!({"mode": "sideways"}),
        json!({"mode": "rollback"}),
        json!({"url": "postgres://x"}),
        json!({"confirm": 1}),
        json!([]),
    ] {
        api.problem(
            400,
            "invalid_request",
            ("POST", &restore, &body.to_string()),
        );
    }
    let plan = api.json(200, "POST", &restore, r#"{"plan": true}"#);
    assert_eq!(
        (&plan["database"], &plan["confirm"]),
        (&json!(name), &Value::Null)
    );
    // What would happen to the database as it is now; nothing is asked for by that.
    let changes = &plan["changes"];
    assert_eq!(
        (
            &changes["to"]["database"],
            &changes["asked"],
            &changes["mode"]
        ),
        (&json!(name), &json!("auto"), &json!("swap")),
        "{plan}"
    );
    assert_eq!(changes["is_possible"], true, "{plan}");
    let shown = api.service.pgseal.json(&["show", "latest"]);
    assert_eq!(
        plan["tables_total"],
        shown["tables"].as_array().unwrap().len()
    );
    assert_eq!(plan["tables"][0]["rows"], shown["tables"][0]["rows"]);
    assert_eq!(
        api.service
            .catalog
            .psql("SELECT count(*) FROM pgseal.restores"),
        "0"
    );

    api.stop();
    api.service.pgseal.set("BACKUP_RESTORE_CONFIRM", "required");
    api.run();
    api.problem(422, "confirmation_required", ("POST", &restore, ""));
    let plan = api.json(
        200,
        "POST",
        &restore,
        r#"{"plan": true, "target": "default"}"#,
    );
    assert_eq!(plan["confirm"], json!(name));
    let body = json!({"confirm": name, "target": "default", "safety": "skip", "mode": "in-place"});
    let asked = api.json(202, "POST", &restore, &body.to_string());
    assert_eq!(
        (&asked["status"], &asked["safety_backup_id"]),
        (&json!("pending"), &Value::Null)
    );
    let cancel = format!("{BACKUPS}/restores/{}/cancel", asked["id"]);
    assert_eq!(api.json(202, "POST", &cancel, "")["status"], "cancelled");
    api.problem(409, "already_ended", ("POST", &cancel, ""));
}

/// A restore is asked for with what the command line takes as well: parts of a backup, and the plan that was looked at.
#[test]
fn a_restore_carries_out_what_was_chosen() {
    let api = Api::start();
    let (service, database) = (&api.service, &api.service.database);
    database.psql("CREATE TABLE kept AS SELECT 1 AS i; CREATE TABLE lost AS SELECT 1 AS i");
    let restore = at(made(&api), "/restore");
    let write = |value: u32| {
        database.psql(&format!(
            "UPDATE kept SET i = {value}; UPDATE lost SET i = {value}"
        ));
    };
    write(2);
    let wanted = json!({"mode": "in-place", "tables": ["public.lost"], "plan": true});
    let changes = &api.json(200, "POST", &restore, &wanted.to_string())["changes"];
    assert_eq!(changes["selected"], json!(["public.lost"]), "{changes}");
    let plan_id = changes["id"].as_str().unwrap();
    for bad in [
        json!({"plan_id": "none"}),
        json!({"tables": [""]}),
        json!({"tables": vec!["a.b"; 101]}),
        json!({"schemas": ["a\u{0}b"]}),
        json!({"role_map": {"a": ""}}),
        json!({"missing_roles": "invent"}),
    ] {
        api.problem(400, "invalid_request", ("POST", &restore, &bad.to_string()));
    }

    // What the plan says is not true any more: the restore stops, and nothing was touched.
    database.psql("CREATE VIEW watched AS SELECT i FROM lost");
    let wanted = json!({"mode": "in-place", "tables": ["public.lost"], "plan_id": plan_id});
    let asked = api.json(202, "POST", &restore, &wanted.to_string());
    assert_eq!(asked["choices"]["plan_id"], plan_id);
    service.burst();
    let of = |asked: &Value| {
        let at = format!("{BACKUPS}/restores/{}", asked["id"]);
        api.json(200, "GET", &at, "")
    };
    let stopped = of(&asked);
    assert_eq!(stopped["status"], "failed");
    let error = stopped["error"].as_str().unwrap();
    assert!(error.contains("another plan by now"), "{error}");
    assert_eq!(
        database.psql("SELECT i FROM kept UNION ALL SELECT i FROM lost"),
        "2\n2"
    );

    // What the backup does not have is said before anything is done.
    let misspelt = json!({"tables": ["public.missing"], "mode": "in-place"});
    let said = api.problem(
        422,
        "selection_unknown",
        ("POST", &restore, &misspelt.to_string()),
    );
    assert!(
        said["detail"].as_str().unwrap().contains("public.missing"),
        "{said}"
    );
    let planned = json!({"tables": ["public.missing"], "plan": true}).to_string();
    api.problem(422, "selection_unknown", ("POST", &restore, &planned));

    database.psql("DROP VIEW watched");
    let asked = api.json(202, "POST", &restore, &wanted.to_string());
    service.burst();
    let done = of(&asked);
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(
        database.psql("SELECT i FROM kept UNION ALL SELECT i FROM lost"),
        "2\n1"
    );
    // Undoing it by the whole safety backup would undo what was written to other tables since.
    let rollback = format!("{BACKUPS}/restores/{}/rollback", asked["id"]);
    api.problem(409, "rollback_impossible", ("POST", &rollback, "{}"));
}
