//! The second copy by the service: asked for after each backup, recorded in its row, made up for, used where the first one
//! cannot be, and deleted with it.

use std::path::Path;

use pgseal::catalog::{Again, AtFault, Catalog};
use pgseal::model::ids::BackupId;
use rustix::process::Signal;

use crate::harness::api::Api;
use crate::harness::catalog::connection;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::receiver::Receiver;
use crate::harness::s3::{Action, S3Server};
use crate::harness::seaweed::runtime;
use crate::harness::service::Service;
use crate::harness::somebody::until;

pub const DENIED: Action = Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>");

/// A service whose backups go to one server, and their copies to another.
pub fn with_two_stores() -> (Service, S3Server, S3Server) {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut service = Service::start();
    first.set_up(&mut service.pgseal);
    second.set_up_copy(&mut service.pgseal);
    (service, first, second)
}

/// A service with a backup that was made before there was a second store.
fn with_a_second_store_since() -> (Service, i64, S3Server, S3Server) {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut service = Service::start();
    first.set_up(&mut service.pgseal);
    let (id, _) = service.enqueue_backup();
    service.burst();
    second.set_up_copy(&mut service.pgseal);
    (service, id, first, second)
}

/// A backup that was asked for and is in both stores.
pub fn replicated(service: &Service) -> i64 {
    let (id, _) = service.enqueue_backup();
    service.burst();
    until_copied(service, id, "confirmed");
    id
}

fn copy_state(service: &Service, id: i64) -> String {
    service.backup(id, "copy_state")
}

fn until_copied(service: &Service, id: i64, state: &str) {
    until(&format!("the copy of {id} to be {state}"), || {
        copy_state(service, id) == state
    });
}

fn damage(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_backups_job_has_it_copied_and_confirmed() {
    let (service, first, second) = with_two_stores();
    let (id, job) = service.enqueue_backup();
    service.burst();
    assert_eq!(service.backup(id, "status"), "completed");
    assert_eq!(service.job_status(&job), "finished");
    assert_eq!(copy_state(&service, id), "confirmed");
    assert_eq!(service.backup(id, "copy_sha256 = sealed_sha256"), "t");
    assert!(service.backup(id, "copy_place").contains(second.endpoint()));
    assert_eq!(first.objects(), second.objects());
    assert_eq!(service.job_status(&format!("pgseal-copy-{id}")), "finished");

    // The database itself refuses to call a backup replicated whose copy has another digest.
    let refused = service.catalog.psql(&format!(
        "DO $$ BEGIN UPDATE pgseal.backups SET copy_sha256 = sha256('x') WHERE id = {id}; RAISE EXCEPTION 'taken';
         EXCEPTION WHEN check_violation THEN NULL; END $$"
    ));
    assert_eq!(refused, "");
}

/// The second store is down: the backup is complete, its copy is not, somebody hears of it once, and it is made up for.
#[test]
fn a_copy_that_fails_changes_no_verdict_and_is_made_up_for() {
    let (mut service, first, second) = with_two_stores();
    let receiver = Receiver::start();
    service
        .pgseal
        .set("BACKUP_NOTIFY_WEBHOOK_URL", receiver.url("/hook"));
    second.hook(|_| DENIED);
    let (id, job) = service.enqueue_backup();
    let worker = service.worker("copier");
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    // Its retries come first, and then the alarm; the backup stays what it was.
    until("a first try", || {
        !service.backup(id, "copy_error").is_empty()
    });
    assert_eq!(copy_state(&service, id), "pending");
    until_copied(&service, id, "failed");
    assert!(
        service
            .backup(id, "copy_error")
            .contains("the second copy of")
    );
    assert_eq!(
        service.backup(id, "status || ' ' || health"),
        "completed ok"
    );
    assert_eq!(service.job_status(&job), "finished");
    assert_eq!(second.objects(), Vec::<String>::new());
    let told = "SELECT count(*) FROM pgseal.events WHERE kind = 'copy.failed'";
    assert_eq!(service.catalog.psql(told), "1");
    until("the message", || {
        receiver
            .sent()
            .iter()
            .any(|sent| sent.body.contains("copy.failed"))
    });
    Service::end(worker);

    // The next look finds it, whoever looks.
    second.hook(|_| Action::Pass);
    let worker = service.worker("copier-2");
    until_copied(&service, id, "confirmed");
    assert_eq!(service.backup(id, "copy_error"), "");
    assert_eq!(first.objects(), second.objects());
    assert_eq!(service.catalog.psql(told), "1");
    Service::end(worker);
}

/// A second store that came later gets what was made before; one that lost a copy gets it anew; another one has none.
#[test]
fn whatever_has_no_copy_gets_one() {
    let (first, second, third) = (S3Server::start(), S3Server::start(), S3Server::start());
    let mut service = Service::start();
    first.set_up(&mut service.pgseal);
    let (id, _) = service.enqueue_backup();
    service.burst();
    // One that was made by hand, without a row.
    service.pgseal.ok(&["backup"]);
    assert_eq!(copy_state(&service, id), "none");

    second.set_up_copy(&mut service.pgseal);
    let missing = "SELECT count(*) FROM pgseal.backups WHERE copy_state <> 'confirmed'";
    let rows = "SELECT count(*) FROM pgseal.backups";
    let all_are_copied = |service: &Service| {
        until("every copy", || {
            service.catalog.psql(rows) == "2" && service.catalog.psql(missing) == "0"
        });
    };
    let worker = service.worker("w1");
    all_are_copied(&service);
    Service::end(worker);
    assert_eq!(first.objects(), second.objects());

    let lost = service.backup(id, "object_key");
    std::fs::remove_file(second.bucket().join(&lost)).unwrap();
    let worker = service.worker("w2");
    let told = "SELECT count(*) FROM pgseal.events WHERE kind = 'copy.failed'";
    until("the alarm", || service.catalog.psql(told) == "1");
    all_are_copied(&service);
    Service::end(worker);
    assert_eq!(first.objects(), second.objects());

    third.set_up_copy(&mut service.pgseal);
    let worker = service.worker("w3");
    until("copies in the third store", || {
        third.objects() == first.objects()
    });
    all_are_copied(&service);
    Service::end(worker);
    assert!(service.backup(id, "copy_place").contains(third.endpoint()));
}

/// The first copy is damaged: a verification says so and finds the second whole, and a restore takes that.
#[test]
fn a_restore_takes_the_second_copy_and_records_it() {
    let (service, first, second) = with_two_stores();
    let id = replicated(&service);
    let server = Postgres::shared();
    let before = Content::of(server, &service.database.name);
    damage(&first.bucket().join(service.backup(id, "object_key")));

    let mut api = Api::of(service);
    let verify = |api: &Api| {
        let path = format!("/api/admin/backups/{id}/verify");
        api.json(202, "POST", &path, "");
        api.service.burst();
    };
    verify(&api);
    let service = &api.service;
    assert_eq!(service.backup(id, "health"), "CORRUPT");
    assert!(
        service
            .backup(id, "health_reason")
            .contains("its second copy")
    );
    assert_eq!(copy_state(service, id), "confirmed");

    service.database.psql("DROP TABLE events CASCADE");
    let asked = service.enqueue_restore(id);
    service.burst();
    let restore = asked["restore_id"].as_i64().unwrap();
    assert_eq!(service.restore(restore, "status"), "completed");
    let warnings = service.restore(restore, "warnings::text");
    assert!(
        warnings.contains("the first copy, in") && warnings.contains(second.endpoint()),
        "{warnings}"
    );
    assert_same(&before, &Content::of(server, &service.database.name));

    // It is as good as its copy: neither damaged nor to be deleted.
    let said = service.pgseal.ok(&["prune", "--plan"]);
    assert!(!said.contains("damaged"), "{said}");
    let kept = service.pgseal.run(&["prune"]);
    assert_eq!(kept.code, 0, "{kept}");
    assert_eq!(service.backup(id, "deletion"), "kept");

    // Without the second store in the settings there is nothing to restore from, and nothing is begun.
    api.stop();
    S3Server::take_out_copy(&mut api.service.pgseal);
    api.run();
    let path = format!("/api/admin/backups/{id}/restore");
    let refused = api.problem(409, "backup_not_restorable", ("POST", &path, ""));
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("BACKUP_COPY_STORE"), "{detail}");
    let asked = "SELECT count(*) FROM pgseal.restores";
    assert_eq!(api.service.catalog.psql(asked), "1");
    api.stop();
    second.set_up_copy(&mut api.service.pgseal);
    api.run();

    // Both are damaged: the row says so, and nobody may restore it any more.
    let service = &api.service;
    damage(&second.bucket().join(service.backup(id, "object_key")));
    verify(&api);
    assert_eq!(copy_state(service, id), "failed");
    let refused = service.pgseal.run(&["enqueue", "restore", &id.to_string()]);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stderr.contains("CORRUPT"), "{refused}");
}

/// The worst day: the first store is down, and a restore is asked for. What is replaced is saved in the second one, and can be
/// brought back from there.
#[test]
fn with_the_first_store_down_a_restore_saves_into_the_second() {
    let (service, first, second) = with_two_stores();
    let id = replicated(&service);
    let server = Postgres::shared();
    let backup = Content::of(server, &service.database.name);
    service.database.psql("DELETE FROM events");
    let damaged = Content::of(server, &service.database.name);
    let before = first.objects();
    first.hook(|_| DENIED);

    let asked = service
        .pgseal
        .json(&["enqueue", "restore", &id.to_string(), "--mode", "in-place"]);
    service.burst();
    let restore = asked["restore_id"].as_i64().unwrap();
    assert_eq!(service.restore(restore, "status"), "completed");
    assert_same(&backup, &Content::of(server, &service.database.name));
    let safety: i64 = service
        .restore(restore, "safety_backup_id")
        .parse()
        .unwrap();
    let facts = "status || ' ' || health || ' ' || copy_state || ' ' || kind";
    assert_eq!(
        service.backup(safety, facts),
        "completed lost confirmed pre_restore"
    );
    let reason = service.backup(safety, "health_reason");
    assert!(reason.contains("made in the second store"), "{reason}");
    let key = service.backup(safety, "object_key");
    assert!(second.objects().contains(&key));
    assert_eq!(first.objects(), before);
    // Whoever cannot read the first copy says nothing of the second; what reading that shows is another matter.
    let state = |of| {
        runtime().block_on(async {
            let catalog = Catalog::open(&connection(&service.catalog.url)).await;
            let id = BackupId::new(safety).unwrap();
            let failed = catalog.unwrap();
            let failed = failed
                .copy_failed(id, "there", (of, "it is down"), Again::No)
                .await;
            failed.unwrap();
        });
        copy_state(&service, safety)
    };
    assert_eq!(state(AtFault::First), "confirmed");
    assert_eq!(state(AtFault::Second), "failed");
    service.catalog.psql(&format!(
        "UPDATE pgseal.backups SET copy_state = 'none', copy_at = NULL, copy_place = NULL, copy_error = NULL WHERE id = {safety}"
    ));

    // The first store is there again, without it: it is still the way back.
    first.hook(|_| Action::Pass);
    let worker = service.worker("finder");
    until_copied(&service, safety, "confirmed");
    Service::end(worker);
    // Nor is what somebody says of it forgotten, because the first store does not have it.
    service.pgseal.ok(&["release", &key]);
    service.pgseal.ok(&["prune"]);
    let is_released =
        |store: &S3Server| store.objects().iter().any(|key| key.contains("released_"));
    assert!(is_released(&first) && is_released(&second));
    let api = Api::of(service);
    let undo = format!("/api/admin/backups/restores/{restore}/rollback");
    api.json(202, "POST", &undo, "");
    api.service.burst();
    assert_same(&damaged, &Content::of(server, &api.service.database.name));
}

/// A worker is killed while it reads such a safety backup back: the next one finds it where it is, and the restore goes on.
#[test]
fn a_safety_backup_in_the_second_store_outlives_its_worker() {
    let (service, first, second) = with_two_stores();
    let id = replicated(&service);
    let server = Postgres::shared();
    let backup = Content::of(server, &service.database.name);
    service.database.psql("DELETE FROM events");
    first.hook(|_| DENIED);
    let (reads, reading) = std::sync::mpsc::channel();
    second.hook(move |call| {
        let is_safety = call.key.contains("pre_restore") && call.key.ends_with(".dump.gpg");
        if call.operation == "GetObject" && is_safety {
            let _gone = reads.send(());
            return Action::Hang(std::time::Duration::from_secs(600));
        }
        Action::Pass
    });
    let doomed = service.worker("doomed");
    let asked = service.enqueue_restore(id);
    reading.recv().unwrap();
    doomed.signal(Signal::KILL);
    doomed.wait();
    second.hook(|_| Action::Pass);
    let restore = asked["restore_id"].as_i64().unwrap();
    let safety: i64 = service
        .restore(restore, "safety_backup_id")
        .parse()
        .unwrap();
    assert_eq!(service.backup(safety, "status"), "running");

    let worker = service.worker("next");
    until("the restore", || {
        service.restore(restore, "status") == "completed"
    });
    assert_eq!(service.backup(safety, "health || ' ' || attempt"), "lost 1");
    assert_same(&backup, &Content::of(server, &service.database.name));
    Service::end(worker);
    // Housekeeping has it read when it looks next.
    let worker = service.worker("later");
    until_copied(&service, safety, "confirmed");
    Service::end(worker);
}

/// A backup that only the second store has, by a command that copied it, counts as one that can be restored.
#[test]
fn one_that_only_the_second_store_has_is_found() {
    let (mut service, id, first, _second) = with_a_second_store_since();
    service.pgseal.unset("CATALOG_DATABASE_URL");
    service.pgseal.ok(&["copy", "latest"]);
    let catalog = service.catalog.url.clone();
    service.pgseal.set("CATALOG_DATABASE_URL", catalog);
    assert_eq!(copy_state(&service, id), "none");
    std::fs::remove_file(first.bucket().join(service.backup(id, "object_key"))).unwrap();
    let worker = service.worker("finder");
    until("the verdict", || service.backup(id, "health") == "lost");
    until_copied(&service, id, "confirmed");
    Service::end(worker);
    service.database.psql("DELETE FROM events");
    let asked = service.enqueue_restore(id);
    service.burst();
    let restore = asked["restore_id"].as_i64().unwrap();
    assert_eq!(service.restore(restore, "status"), "completed");
    assert_ne!(service.database.psql("SELECT count(*) FROM events"), "0");
}

/// Where the second store is taken out of the settings, nothing counts as being in it.
#[test]
fn a_second_store_that_is_not_configured_holds_nothing() {
    let (mut service, _first, _second) = with_two_stores();
    let id = replicated(&service);
    let other = replicated(&service);
    // As a verification of the first copy says it.
    service.catalog.psql(&format!(
        "UPDATE pgseal.backups SET health = 'CORRUPT', health_reason = 'its digest', health_at = now() WHERE id = {id}"
    ));
    let plan = |service: &Service| service.pgseal.ok(&["prune", "--plan"]);
    assert!(!plan(&service).contains("damaged"));

    S3Server::take_out_copy(&mut service.pgseal);
    assert!(plan(&service).contains("damaged"), "{}", plan(&service));
    let api = Api::of(service);
    let of = api.json(200, "GET", &format!("/api/admin/backups/{other}"), "");
    assert_eq!(of["replicated"], false);
}

/// By a command, where there is a catalog, it is known at once.
#[test]
fn a_copy_by_a_command_is_recorded() {
    let (service, id, _first, _second) = with_a_second_store_since();
    service.pgseal.ok(&["copy", "latest"]);
    assert_eq!(copy_state(&service, id), "confirmed");
    assert_eq!(service.backup(id, "copy_sha256 = sealed_sha256"), "t");
}

/// Who reads a first copy to copy it finds out that it is damaged.
#[test]
fn a_copy_finds_out_that_the_first_one_is_damaged() {
    let (service, first, second) = with_two_stores();
    second.hook(|_| DENIED);
    let (id, _) = service.enqueue_backup();
    service.burst();
    damage(&first.bucket().join(service.backup(id, "object_key")));
    second.hook(|_| Action::Pass);
    let worker = service.worker("finder");
    until("the verdict", || service.backup(id, "health") == "CORRUPT");
    Service::end(worker);
    assert_eq!(second.objects(), Vec::<String>::new());
    assert_eq!(service.backup(id, "status"), "completed");
}

#[test]
fn the_api_says_what_is_replicated_and_deletes_both_copies() {
    let (service, first, second) = with_two_stores();
    let older = replicated(&service);
    second.hook(|_| DENIED);
    let (id, _) = service.enqueue_backup();
    service.burst();
    let api = Api::of(service);
    let of = |id: i64| api.json(200, "GET", &format!("/api/admin/backups/{id}"), "");
    assert_eq!(of(older)["copy_state"], "confirmed");
    assert_eq!(of(older)["replicated"], true);
    let other = of(id);
    assert_eq!(other["copy_state"], "pending");
    assert_eq!(other["replicated"], false);
    let error = other["copy_error"].as_str().unwrap();
    assert!(error.contains("the second copy of"), "{error}");
    let metrics = api.bare("GET", "/metrics", &[], "").text();
    assert!(
        metrics.contains("pgseal_backups_not_replicated 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("pgseal_not_replicated_age_seconds "),
        "{metrics}"
    );

    // A download takes the copy that is there, and a plan its manifest.
    let key = api.service.backup(older, "object_key");
    let manifest = key.replace(".dump.", ".manifest.");
    let whole = std::fs::read(first.bucket().join(&key)).unwrap();
    second.hook(|_| Action::Pass);
    std::fs::remove_file(first.bucket().join(&key)).unwrap();
    std::fs::remove_file(first.bucket().join(&manifest)).unwrap();
    let path = format!("/api/admin/backups/{older}");
    let got = api.ask("GET", &format!("{path}/download"), "");
    assert_eq!(got.status, 200, "{got}");
    assert!(got.body == whole);
    let plan = api.json(200, "POST", &format!("{path}/restore"), r#"{"plan": true}"#);
    assert_eq!(plan["size"], whole.len());

    // A deletion that the second store refuses is not done, and is gone on with.
    second.hook(|call| match call.operation {
        "DeleteObject" => DENIED,
        _ => Action::Pass,
    });
    let refused = api.ask("DELETE", &path, "");
    assert_eq!(refused.status, 503, "{refused}");
    assert!(refused.text().contains("store_unavailable"), "{refused}");
    assert_eq!(api.service.backup(older, "deletion"), "deleting");
    assert!(second.objects().contains(&key));
    second.hook(|_| Action::Pass);
    let worker = api.service.worker("deleter");
    until("the row to go", || {
        api.service.backup(older, "id").is_empty()
    });
    Service::end(worker);
    assert!(!second.objects().contains(&key));
    assert!(!second.objects().contains(&manifest));
}
