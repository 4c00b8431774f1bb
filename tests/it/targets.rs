//! Several targets: a file names them, each has a folder of its own in the store, and nobody's backup is taken for
//! another's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::harness::api::Api;
use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::service::Service;

/// A dummy that must be in no message.
const CANARY: &str = "dummy-target-canary";

fn shop() -> Database<'static> {
    Postgres::shared().database_from("shop", &fixture("bulk.sql"), &["rows=300"])
}

/// Names the targets in a file.
pub fn with_targets(pgseal: &mut Pgseal, text: &str) -> PathBuf {
    let file = pgseal.file("targets.toml");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    pgseal.set("BACKUP_TARGETS_FILE", &file);
    file
}

#[test]
fn each_target_has_its_own_folder_and_its_own_latest() {
    let (first, second) = (shop(), shop());
    second.psql("DELETE FROM events");
    let mut pgseal = Pgseal::new();
    let url_file = pgseal.file("second-url");
    std::fs::write(&url_file, format!("{}\n", second.url)).unwrap();
    with_targets(
        &mut pgseal,
        &format!(
            "# Two shops.\n[targets.second]\nurl_file = '{}'\n",
            url_file.display()
        ),
    );
    // The only one there is needs no name.
    let made = pgseal.json(&["backup", "--target", "second"]);
    let key = made["object_key"].as_str().unwrap();
    assert!(
        key.starts_with("backups/prod/second/20") && key.ends_with(".dump.gpg"),
        "{key}"
    );
    assert_eq!(pgseal.json(&["show", "latest"])["object_key"], key);

    pgseal.set("DATABASE_URL", &first.url);
    let of_default = pgseal.json(&["backup"])["object_key"].clone();
    let of_default = of_default.as_str().unwrap();
    assert!(of_default.starts_with("backups/prod/20"), "{of_default}");
    for command in [&["show", "latest"][..], &["verify", "latest"]] {
        let said = pgseal.fails(5, command);
        assert!(
            said.contains("there are several targets: default, second")
                && said.contains("--target NAME"),
            "{said}"
        );
    }
    let latest = |target: &str| {
        let shown = pgseal.json(&["show", "latest", "--target", target]);
        shown["object_key"].as_str().unwrap().to_owned()
    };
    assert_eq!(latest("second"), key);
    assert_eq!(latest("default"), of_default);
    let listed = |arguments: &[&str]| {
        let listed = pgseal.json(arguments);
        let key = |entry: &serde_json::Value| entry["object_key"].as_str().unwrap().to_owned();
        let mut keys: Vec<String> = listed.as_array().unwrap().iter().map(key).collect();
        keys.sort();
        keys
    };
    assert_eq!(listed(&["list"]), [of_default, key]);
    assert_eq!(listed(&["list", "--target", "second"]), [key]);

    // Without the file, the other target's backups are nobody's latest.
    pgseal.unset("BACKUP_TARGETS_FILE");
    pgseal.ok(&["delete", of_default]);
    let said = pgseal.fails(3, &["verify", "latest"]);
    assert!(said.contains("no complete backup"), "{said}");
    pgseal.ok(&["verify", key]);
}

/// Row 172: the folder of `default` has those of the others in it, and what is asked of it is of it alone.
#[test]
fn the_target_default_is_one_of_several() {
    let (first, second) = (shop(), shop());
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &first.url);
    with_targets(
        &mut pgseal,
        &format!("[targets.second]\nurl = \"{}\"\n", second.url),
    );
    let made = |target: &str| {
        let made = pgseal.json(&["backup", "--target", target]);
        made["object_key"].as_str().unwrap().to_owned()
    };
    let of_default = made("default");
    made("second");
    second.psql("DROP TABLE events, order_items, orders, customers");
    let emptied = made("second");

    // The beginning of a name that all of them have.
    let found = |target: &str| {
        let shown = pgseal.json(&["show", "backup_manual", "--target", target]);
        shown["object_key"].as_str().unwrap().to_owned()
    };
    assert_eq!(found("default"), of_default);
    pgseal.ok(&["verify", "backup_manual", "--target", "default"]);
    let said = pgseal.fails(3, &["verify", "backup_manual"]);
    assert!(
        said.contains("could be any of") && said.contains("--target"),
        "{said}"
    );

    let listed = pgseal.json(&["list", "--target", "default"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["object_key"], of_default);
    let header = |arguments: &[&str]| pgseal.ok(arguments).lines().next().unwrap().to_owned();
    assert!(header(&["list"]).contains("TARGET"));
    assert!(!header(&["list", "--target", "default"]).contains("TARGET"));

    // What was said of a target's backup is asked for in that target's folder.
    let listed = || pgseal.json(&["list"]);
    assert!(listed()[0]["suspicious"].is_string(), "{}", listed());
    assert!(pgseal.ok(&["list"]).contains(" of second: "));
    pgseal.ok(&["accept", &emptied]);
    assert!(listed()[0]["suspicious"].is_null(), "{}", listed());
}

#[test]
fn a_restore_goes_to_a_target_by_its_name() {
    let second = shop();
    let mut pgseal = Pgseal::new();
    with_targets(
        &mut pgseal,
        &format!("[targets]\nsecond.url = \"{}\"\n", second.url),
    );
    pgseal.ok(&["backup", "--target", "second"]);
    let before = Content::of(Postgres::shared(), &second.name);
    second.psql("DELETE FROM events; DROP TABLE products CASCADE");
    pgseal.ok(&[
        "restore", "latest", "--target", "second", "--to", "second", "--mode", "in-place",
    ]);
    assert_same(&before, &Content::of(Postgres::shared(), &second.name));
    // The safety backup is that target's as well.
    let stored = pgseal.stored();
    let safety = |path: &String| {
        path.starts_with("backups/prod/second/20") && path.contains("/backup_pre_restore")
    };
    assert_eq!(
        stored.iter().filter(|path| safety(path)).count(),
        2,
        "{stored:?}"
    );
    let said = pgseal.fails(5, &["restore", "latest", "--to", "third", "--mode", "new"]);
    assert!(said.contains("no target is called third"), "{said}");
}

#[test]
fn workers_find_a_target_s_database_by_its_name() {
    let second = shop();
    let server = Postgres::shared();
    let mut service = Service::start();
    let before = [&service.database, &second].map(|one| Content::of(server, &one.name));
    let said = service
        .pgseal
        .fails(5, &["enqueue", "backup", "--target", "second"]);
    assert!(
        said.contains("no target is called second\n") && said.contains("BACKUP_TARGETS_FILE"),
        "{said}"
    );
    with_targets(
        &mut service.pgseal,
        &format!("[targets.second]\nurl = \"{}\"\n", second.url),
    );
    let enqueue = |service: &Service, arguments: &[&str]| {
        let asked = service.pgseal.json(arguments);
        asked["backup_id"].as_i64().unwrap()
    };
    // Each target has one job at a time, and the others none the less.
    let of_second = enqueue(&service, &["enqueue", "backup", "--target", "second"]);
    let of_default = enqueue(&service, &["enqueue", "backup"]);
    let busy = service
        .pgseal
        .fails(1, &["enqueue", "backup", "--target", "second"]);
    assert!(busy.contains("second"), "{busy}");
    service.burst();
    for (id, target, folder, database) in [
        (of_second, "second", "backups/prod/second/20", &second),
        (of_default, "default", "backups/prod/20", &service.database),
    ] {
        assert_eq!(
            service.backup(id, "status || ' ' || target || ' ' || database"),
            format!("completed {target} {}", database.name)
        );
        let key = service.backup(id, "object_key");
        assert!(key.starts_with(folder), "{key}");
        let shown = service.pgseal.json(&["show", &key]);
        assert_eq!(shown["database"], database.name.as_str());
    }

    // A restore by number goes where the backup came from, behind a safety backup of that.
    for database in [&second, &service.database] {
        database.psql("DELETE FROM events");
    }
    let changed = Content::of(server, &service.database.name);
    let asked = service.enqueue_restore(of_second);
    service.burst();
    let restore = asked["restore_id"].as_i64().unwrap();
    assert_eq!(
        service.restore(restore, "status || ' ' || target"),
        "completed second"
    );
    let safety = asked["safety_backup_id"].as_i64().unwrap();
    assert_eq!(service.backup(safety, "target"), "second");
    assert_same(&before[1], &Content::of(server, &second.name));
    assert_same(&changed, &Content::of(server, &service.database.name));

    // What the bucket has is every target's.
    let done = service.pgseal.json(&["catalog", "reconcile"]);
    assert_eq!(done["complete"], 3, "{done}");
    assert_eq!(done["adopted"].as_array().unwrap().len(), 0, "{done}");

    // A worker that does not know the target says so, and leaves the others their way.
    let of_second = enqueue(&service, &["enqueue", "backup", "--target", "second"]);
    service.pgseal.unset("BACKUP_TARGETS_FILE");
    service.burst();
    let error = service.backup(of_second, "error_stage || ': ' || error");
    assert!(
        error.starts_with("prepare: no target is called second here; there are: default\n"),
        "{error}"
    );
}

#[test]
fn a_bad_file_is_refused_by_its_line_and_without_its_secrets() {
    let url = format!("postgres://pgseal:{CANARY}@127.0.0.1:1/shop");
    let mut pgseal = Pgseal::new();
    for (text, line, what) in [
        (format!("[targets.shop]\nurl = {url}\n"), 2, "it is no TOML"),
        (
            format!("[targets.shop]\nurl = \"{url}\n"),
            2,
            "it is no TOML",
        ),
        (format!("[targets.shop]\n{url}\n"), 2, "it is no TOML"),
        (
            format!("[targets.shop]\nurl = \"{url}\"\n[targets.shop]\nurl = \"{url}\"\n"),
            3,
            "duplicate key",
        ),
        (
            format!("[targets.shop]\nurl = \"{url}\"\nurl = \"{url}\"\n"),
            3,
            "duplicate key",
        ),
        (
            format!("url = \"{url}\"\n"),
            1,
            "every line belongs to a target",
        ),
        (
            format!("[target.shop]\nurl = \"{url}\"\n"),
            1,
            "[targets.NAME]",
        ),
        (
            format!("[targets]\nshop = \"{url}\"\n"),
            2,
            "shop is no table",
        ),
        (
            format!("[targets.shop]\nurl = [\"{url}\"]\n"),
            2,
            "url of target shop is no text",
        ),
        (
            "[targets.shop]\nurl = ''\n".to_owned(),
            2,
            "or an empty one",
        ),
        (
            format!("\n[targets.shop]\nurl = '{url}'\nurl_file = '/x'\n"),
            4,
            "are both set",
        ),
        (
            format!("[targets.shop]\nurl = '{url}'\npassword = '{CANARY}'\n"),
            3,
            "a setting that no target has",
        ),
        ("[targets.shop]\n".to_owned(), 1, "neither url nor url_file"),
        (
            format!("[targets.\"a/b\"]\nurl = '{url}'\n"),
            1,
            "letters, digits, - and _",
        ),
        (
            format!("[targets.2026]\nurl = '{url}'\n"),
            1,
            "cannot be a year",
        ),
    ] {
        let file = with_targets(&mut pgseal, &text);
        let said = pgseal.fails(5, &["backup", "--target", "shop"]);
        let place = format!("read the targets in {}, line {line}: ", file.display());
        assert!(
            said.contains(&place) && said.contains(what),
            "{text}\n{said}"
        );
        assert!(!said.contains(CANARY), "{said}");
    }

    with_targets(
        &mut pgseal,
        &format!("[targets.shop]\nurl = 'nonsense:{CANARY}'\n"),
    );
    let said = pgseal.fails(5, &["backup", "--target", "shop"]);
    assert!(said.contains("read the URL of the target shop"), "{said}");
    assert!(!said.contains(CANARY), "{said}");
    with_targets(&mut pgseal, "[targets.shop]\nurl_file = '/no/such/file'\n");
    let said = pgseal.fails(5, &["backup", "--target", "shop"]);
    assert!(
        said.contains("url_file of target shop") && said.contains("/no/such/file"),
        "{said}"
    );
    with_targets(&mut pgseal, &format!("[targets.default]\nurl = '{url}'\n"));
    pgseal.set("DATABASE_URL", &url);
    let said = pgseal.fails(5, &["show", "latest"]);
    assert!(said.contains("both name the target default"), "{said}");
    assert!(!said.contains(CANARY), "{said}");
    pgseal.set("BACKUP_TARGETS_FILE", "/no/such/file");
    let said = pgseal.fails(5, &["show", "latest"]);
    assert!(said.contains("BACKUP_TARGETS_FILE"), "{said}");
    for usage in [
        &["backup", "--target", "a/b"][..],
        &["backup", &url, "--target", "shop"],
    ] {
        pgseal.fails(2, usage);
    }
}

/// Row 84: two targets may have databases of one name, on two servers: what confirms a restore into one is not what confirms it
/// into the other.
#[test]
fn databases_of_one_name_are_confirmed_with_their_targets() {
    let server = Postgres::shared();
    let mut service = Service::start();
    let name = service.database.name.clone();
    let before = Content::of(server, &name);
    let twin = format!("postgres://nobody:dummy@127.0.0.1:1/{name}");
    with_targets(
        &mut service.pgseal,
        &format!("[targets.twin]\nurl = \"{twin}\"\n"),
    );
    let api = Api::of(service);
    let pgseal = &api.service.pgseal;
    pgseal.ok(&["backup", "--target", "default"]);
    let replace = ["restore", "latest", "--no-safety-backup", "--mode"];
    for (to, confirm) in [("default", &*name), ("twin", &*name)] {
        let more = ["swap", "--to", to, "--confirm", confirm];
        let refused = pgseal.fails(2, &[&replace[..], &more].concat());
        let wanted = format!("--confirm {to}/{name}");
        assert!(refused.contains(&wanted), "{refused}");
    }
    let made = api.json(
        202,
        "POST",
        "/api/admin/backups",
        r#"{"target": "default"}"#,
    );
    api.service.burst();
    let restore = format!("/api/admin/backups/{}/restore", made["id"]);
    let plan = api.json(200, "POST", &restore, r#"{"plan": true, "safety": "skip"}"#);
    let confirm = format!("default/{name}");
    assert_eq!(plan["confirm"], confirm.as_str());
    for wrong in [&*name, &format!("twin/{name}")] {
        let body = format!(r#"{{"safety": "skip", "confirm": "{wrong}"}}"#);
        api.problem(422, "confirmation_wrong", ("POST", &restore, &body));
    }
    assert_same(&before, &Content::of(server, &name));
    let database = &api.service.database;
    database.psql("DELETE FROM events");
    let more = [
        "in-place",
        "--target",
        "default",
        "--to",
        "default",
        "--confirm",
        &confirm,
    ];
    pgseal.ok(&[&replace[..], &more].concat());
    assert_same(&before, &Content::of(server, &name));
}

/// Over the API each configured target is backed up and restored by its name, and confirmed by its own database's; the doctor
/// looks at all of them.
#[test]
fn the_api_knows_every_target() {
    let second = shop();
    let server = Postgres::shared();
    let mut service = Service::start();
    with_targets(
        &mut service.pgseal,
        &format!("[targets.second]\nurl = \"{}\"\n", second.url),
    );
    let api = Api::of(service);
    let service = &api.service;
    let before = [&service.database, &second].map(|one| Content::of(server, &one.name));
    let backups = "/api/admin/backups";
    let other = r#"{"target": "third"}"#;
    api.problem(422, "target_unknown", ("POST", backups, other));
    let made = api.json(202, "POST", backups, r#"{"target": "second"}"#);
    let of_default = api.json(202, "POST", backups, "");
    assert_eq!(
        (&made["target"], &of_default["target"]),
        (&"second".into(), &"default".into())
    );
    let busy = r#"{"target": "second"}"#;
    api.problem(409, "target_busy", ("POST", backups, busy));
    service.burst();

    // Where nothing is said, it goes where it came from, and is confirmed by that database's name.
    second.psql("DELETE FROM events");
    let restore = format!("{backups}/{}/restore", made["id"]);
    let plan = api.json(200, "POST", &restore, r#"{"plan": true}"#);
    assert_eq!(
        (&plan["target"], &plan["database"]),
        (&"second".into(), &second.name.as_str().into())
    );
    let wrong = format!(r#"{{"confirm": "{}"}}"#, service.database.name);
    api.problem(422, "confirmation_wrong", ("POST", &restore, &wrong));
    let right = format!(r#"{{"confirm": "{}"}}"#, second.name);
    let asked = api.json(202, "POST", &restore, &right);
    assert_eq!(asked["target"], "second");
    service.burst();
    let at = format!("{backups}/restores/{}", asked["id"]);
    assert_eq!(api.json(200, "GET", &at, "")["status"], "completed");
    assert_same(&before[1], &Content::of(server, &second.name));
    assert_same(&before[0], &Content::of(server, &service.database.name));

    // One of them cannot be reached: the others are looked at all the same.
    let targets = format!(
        "[targets.second]\nurl = \"{}\"\n[targets.gone]\nurl = \"postgres://nobody@127.0.0.1:1/gone\"\n",
        second.url
    );
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &service.database.url);
    with_targets(&mut pgseal, &targets);
    let run = pgseal.run(&["doctor", "--json"]);
    assert_eq!(run.code, 5, "{run}");
    let found: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let servers: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["subject"] == "server")
        .map(|line| {
            (
                line["target"].as_str().unwrap(),
                line["severity"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        servers,
        [("default", "ok"), ("gone", "PROBLEM"), ("second", "ok")]
    );
    let said = pgseal.run(&["doctor"]).stdout;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("PROBLEM  gone: server: "), "{said}");
}
