//! The first copy, mended from the second.

use pgseal::seal::Digester;
use serde_json::Value;

use crate::copies::{bytes, damage, key, replicated, restored};
use crate::copies_service::{DENIED, replicated as replicated_by, with_two_stores};
use crate::harness::api::Api;
use crate::harness::cli::{PASSPHRASE, clients};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::Postgres;
use crate::harness::s3::{Action, S3Server};
use crate::harness::service::Service;
use crate::targets::with_targets;

/// What the first store has lost, or has damaged, comes back from the second; what is no better there changes nothing.
#[test]
fn the_first_copy_is_mended_from_the_second() {
    let (first, second, pgseal, source, made) = replicated("mended");
    let name = made["name"].as_str().unwrap();
    let dump = key(&made);
    let manifest = dump.replace(".dump.", ".manifest.");
    let (in_first, in_second) = (first.bucket(), second.bucket());
    let whole = [dump, &manifest].map(|key| bytes(&in_second, key));
    let both = |what: &str| {
        for folder in [&in_first, &in_second] {
            assert_eq!(
                [dump, &manifest].map(|key| bytes(folder, key)),
                whole,
                "{what}"
            );
        }
    };
    let mended = |outcome: &str, selection: &[&str]| {
        let lines = pgseal.json(&[&["copy", "--back"], selection].concat());
        assert_eq!(lines[0]["outcome"], outcome, "{lines}");
        assert_eq!(lines[0]["replicated"], true, "{lines}");
        both(outcome);
        assert_eq!(pgseal.run(&["verify", name]).code, 0);
    };
    damage(&in_first.join(dump));
    let said = pgseal.run(&["verify", name]);
    assert_eq!(said.code, 7, "{said}");
    assert!(
        said.stderr.contains(&format!("pgseal copy --back {name}")),
        "{said}"
    );
    mended("copied", &[name]);
    std::fs::remove_file(in_first.join(dump)).unwrap();
    std::fs::remove_file(in_first.join(&manifest)).unwrap();
    mended("copied", &["--all"]);
    std::fs::remove_file(in_first.join(&manifest)).unwrap();
    mended("was there", &["latest"]);
    // A drill that was recorded in the first since then is not replaced by an older one.
    let to = Postgres::shared().url("postgres");
    pgseal.json(&["drill", name, "--to", &to]);
    pgseal.json(&["copy", name]);
    let proof = dump.replace(".dump.", ".proof.");
    let older = bytes(&in_second, &proof);
    pgseal.json(&["drill", name, "--to", &to]);
    let newer = bytes(&in_first, &proof);
    assert_ne!(older, newer);
    mended("was there", &[name]);
    assert_eq!(bytes(&in_first, &proof), newer);

    // Nor is it lost where the dump has to be made anew; one of a drill of the second copy comes with that.
    damage(&in_first.join(dump));
    mended("copied", &[name]);
    assert_eq!(bytes(&in_first, &proof), newer);
    damage(&in_first.join(dump));
    pgseal.json(&["drill", name, "--to", &to]);
    let newest = bytes(&in_second, &proof);
    assert_ne!(newest, older);
    mended("copied", &[name]);
    assert_eq!(bytes(&in_first, &proof), newest);

    // Both are called whole only where both were read.
    damage(&in_second.join(dump));
    let said = pgseal.fails(4, &["copy", "--back", name]);
    assert!(said.contains("the second copy of"), "{said}");
    std::fs::write(in_second.join(dump), &whole[0]).unwrap();

    // The second one is no better: the first keeps what it has, and each is called what it is.
    damage(&in_second.join(dump));
    damage(&in_first.join(dump));
    let damaged = bytes(&in_first, dump);
    let said = pgseal.fails(4, &["copy", "--back", name]);
    assert!(
        said.contains("the second copy of") && said.contains(second.endpoint()),
        "{said}"
    );
    assert_eq!(bytes(&in_first, dump), damaged);
    // Nor does one that breaks off in the middle leave anything that looks like a backup.
    std::fs::write(in_second.join(dump), &whole[0]).unwrap();
    first.hook(|call| match call.operation {
        "PutObject" | "CreateMultipartUpload" if call.key.contains("backup_") => DENIED,
        _ => Action::Pass,
    });
    let said = pgseal.fails(5, &["copy", "--back", name]);
    assert!(
        said.contains("the first copy of") && said.contains(first.endpoint()),
        "{said}"
    );
    first.hook(|_| Action::Pass);
    assert!(!first.objects().contains(&dump.to_owned()));
    mended("copied", &[name]);
    restored(&pgseal, &source, name);
}

/// A safety backup that was made while the first store was down is one as any other, once it was copied back: in both stores,
/// and retention's.
#[test]
fn a_safety_backup_of_the_second_store_is_copied_back() {
    let (service, first, second) = with_two_stores();
    let id = replicated_by(&service);
    first.hook(|_| DENIED);
    let in_place = ["enqueue", "restore", &id.to_string(), "--mode", "in-place"];
    let asked = service.pgseal.json(&in_place);
    service.burst();
    first.hook(|_| Action::Pass);
    let restore = asked["restore_id"].as_i64().unwrap();
    assert_eq!(service.restore(restore, "status"), "completed");
    let safety: i64 = service
        .restore(restore, "safety_backup_id")
        .parse()
        .unwrap();
    let facts = "health || ' ' || copy_state || ' ' || coalesce(health_reason, 'nothing')";
    assert!(service.backup(safety, facts).starts_with("lost confirmed "));
    assert_ne!(first.objects(), second.objects());

    // Without the second store, nothing is begun that would need it.
    let mut api = Api::of(service);
    api.stop();
    S3Server::take_out_copy(&mut api.service.pgseal);
    api.run();
    let undo = format!("/api/admin/backups/restores/{restore}/rollback");
    api.problem(409, "backup_not_restorable", ("POST", &undo, ""));
    api.stop();
    second.set_up_copy(&mut api.service.pgseal);
    let service = api.service;

    // Whoever deletes it is not undone.
    let key = service.backup(safety, "object_key");
    let deletion = |word: &str| {
        let set = format!("UPDATE pgseal.backups SET deletion = '{word}' WHERE id = {safety}");
        service.catalog.psql(&set);
    };
    deletion("deleting");
    let said = service.pgseal.fails(1, &["copy", "--back", &key]);
    assert!(said.contains("is being deleted"), "{said}");
    assert_ne!(first.objects(), second.objects());
    deletion("kept");

    let name = key.rsplit('/').next().unwrap().replace(".dump.gpg", "");
    let plan = || service.pgseal.ok(&["prune", "--plan"]);
    assert!(!plan().contains(&name), "{}", plan());
    service.pgseal.ok(&["copy", "--back", &key]);
    assert_eq!(service.backup(safety, facts), "ok confirmed nothing");
    assert_eq!(first.objects(), second.objects());
    assert!(plan().contains(&name), "{}", plan());
    let pins = "SELECT count(*) FROM pgseal.pins";
    assert_eq!(service.catalog.psql(pins), "0");
    service.burst();
    assert_eq!(service.backup(safety, facts), "ok confirmed nothing");
    service.pgseal.ok(&["verify", &key]);
}

/// Everything in the first bucket is lost: the backups of all targets come back, and what was said of them.
#[test]
fn a_lost_bucket_comes_back_with_what_was_said() {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    second.set_up_copy(&mut pgseal);
    let server = Postgres::shared();
    let [shop, other] = ["back_shop", "back_other"].map(|name| server.create_database(name));
    shop.psql("CREATE TABLE t AS SELECT 1 AS i");
    pgseal.set("DATABASE_URL", &other.url);
    with_targets(
        &mut pgseal,
        &format!("[targets.shop]\nurl = \"{}\"\n", shop.url),
    );
    let made = pgseal.json(&["backup", "--target", "shop"]);
    pgseal.ok(&["backup"]);
    pgseal.ok(&["accept", key(&made)]);
    let before = first.objects();
    assert!(before.iter().any(|key| key.contains("accepted_")));
    assert_eq!(second.objects(), before);
    for key in &before {
        std::fs::remove_file(first.bucket().join(key)).unwrap();
    }
    assert_eq!(first.objects(), Vec::<String>::new());
    // Whoever looks at what is left hears where the rest is.
    let listed = |what: &str| {
        let listed = pgseal.run(&["list"]);
        assert_eq!(listed.code, 0, "{listed}");
        listed.stderr.contains(what)
    };
    let word = "has 2 backups, such as backup_manual_";
    assert!(listed(word) && listed("pgseal copy --back --all"));
    let lines = pgseal.json(&["copy", "--back", "--all"]);
    assert_eq!(lines.as_array().unwrap().len(), 2, "{lines}");
    assert_eq!(first.objects(), before);
    assert!(!listed("second store"));

    // A newer one that the second does not have: an older one is not what was meant.
    second.hook(|_| DENIED);
    let newest = pgseal.run(&["backup", "--json"]);
    assert_eq!(newest.code, 7, "{newest}");
    second.hook(|_| Action::Pass);
    let newest: Value = serde_json::from_slice(&newest.stdout).unwrap();
    let said = pgseal.fails(3, &["copy", "--back", "latest", "--target", "default"]);
    assert!(said.contains(newest["name"].as_str().unwrap()), "{said}");
    // Its own name is looked for where it would come from.
    let said = pgseal.fails(3, &["copy", "--back", newest["name"].as_str().unwrap()]);
    assert!(
        said.contains("the second store") && said.contains(second.endpoint()),
        "{said}"
    );
}

/// What is in the way and another's stays another's; a source that goes meanwhile leaves nothing; one that is away is no success.
#[test]
fn what_cannot_come_back_changes_nothing() {
    let (first, second, mut pgseal, _source, made) = replicated("not_back");
    let dump = key(&made).to_owned();
    let manifest = dump.replace(".dump.", ".manifest.");
    let name = made["name"].as_str().unwrap();
    let whole = bytes(&second.bucket(), &manifest);
    pgseal.ok(&["copy", name]);

    // Deleted while it is on its way: it must not be found again.
    let lose = || {
        for key in [&dump, &manifest] {
            let _absent = std::fs::remove_file(first.bucket().join(key));
        }
    };
    lose();
    let (source, of_dump) = (second.bucket().join(&manifest), dump.clone());
    first.hook(move |call| {
        if call.key == of_dump && ["PutObject", "CreateMultipartUpload"].contains(&call.operation) {
            std::fs::remove_file(&source).unwrap();
        }
        Action::Pass
    });
    let said = pgseal.fails(3, &["copy", "--back", name]);
    assert!(said.contains("the second copy of"), "{said}");
    assert!(said.contains(second.endpoint()), "{said}");
    assert_eq!(first.objects(), Vec::<String>::new());
    first.hook(|_| Action::Pass);
    std::fs::write(second.bucket().join(&manifest), &whole).unwrap();

    // A manifest that is nobody's we know: the server keeps what it knows of an object beside the bucket.
    for entry in std::fs::read_dir(first.bucket().parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".metadata.json") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let theirs = first.bucket().join(&manifest);
    std::fs::write(&theirs, "theirs").unwrap();
    let said = pgseal.fails(1, &["copy", "--back", key(&made)]);
    assert!(said.contains("another object has this name"), "{said}");
    assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
    assert_eq!(first.objects(), [manifest.as_str()]);
    std::fs::remove_file(&theirs).unwrap();

    // A second store that is not there has nothing, and that is no good news.
    let away = pgseal.file("away");
    std::fs::write(&away, "").unwrap();
    S3Server::take_out_copy(&mut pgseal);
    pgseal.set("BACKUP_COPY_STORE", format!("file:{}/sub", away.display()));
    let run = pgseal.run(&["copy", "--back", "--all"]);
    assert_ne!(run.code, 0, "{run}");
    assert!(run.stderr.contains("the second store"), "{run}");
    // Nor is one that is there and empty, as where a disk is not mounted.
    let empty = pgseal.file("empty");
    std::fs::create_dir(&empty).unwrap();
    pgseal.set("BACKUP_COPY_STORE", format!("file:{}", empty.display()));
    let said = pgseal.fails(3, &["copy", "--back", "--all"]);
    assert!(said.contains("the second store"), "{said}");
}

/// A backup whose every byte is what was stored, and whose content is not: no copy makes it good, nobody counts it, and
/// nothing but a verification that reads it calls it well.
#[test]
fn what_no_copy_can_be_read_of_is_no_backup() {
    let (service, first, second) = with_two_stores();
    let id = replicated_by(&service);
    let key = service.backup(id, "object_key");
    let of_manifest = key.replace(".dump.", ".manifest.");
    let gpg = Gpg::new();
    let dump = first.bucket().join(&key);
    let mut plain = gpg.decrypt(&dump, PASSPHRASE);
    *plain.last_mut().unwrap() ^= 1;
    let sealed = gpg.encrypt(&plain, PASSPHRASE, &[]);
    let good = bytes(&first.bucket(), &of_manifest);
    let opened = gpg.decrypt(&first.bucket().join(&of_manifest), PASSPHRASE);
    let mut manifest: Value = serde_json::from_slice(&opened).unwrap();
    manifest["sealed_bytes"] = sealed.len().into();
    manifest["sealed_sha256"] = Digester::of(&sealed).to_string().into();
    let manifest = gpg.encrypt(manifest.to_string().as_bytes(), PASSPHRASE, &[]);
    assert_ne!(manifest, good);
    for store in [&first, &second] {
        std::fs::write(store.bucket().join(&key), &sealed).unwrap();
        std::fs::write(store.bucket().join(&of_manifest), &manifest).unwrap();
    }
    let digest = format!("'\\x{}'", Digester::of(&sealed));
    service.catalog.psql(&format!(
        "UPDATE pgseal.backups SET sealed_sha256 = {digest}, copy_sha256 = {digest}, sealed_bytes = {} WHERE id = {id}",
        sealed.len()
    ));

    let api = Api::of(service);
    let service = &api.service;
    let path = format!("/api/admin/backups/{id}/verify");
    api.json(202, "POST", &path, "");
    service.burst();
    assert_eq!(service.backup(id, "health"), "ALTERED");
    let told = "SELECT count(*) FROM pgseal.events WHERE kind = 'backup.corrupt'";
    assert_eq!(service.catalog.psql(told), "1");
    let reason = service.backup(id, "health_reason");
    assert!(!reason.contains("second copy"), "{reason}");
    let refused = |why: &str| {
        let refused = service
            .pgseal
            .fails(1, &["enqueue", "restore", &id.to_string()]);
        assert!(refused.contains("ALTERED"), "{why}: {refused}");
        let plan = service.pgseal.ok(&["prune", "--plan"]);
        assert!(plan.contains("damaged"), "{why}: {plan}");
    };
    refused("verified");
    let copied = service.pgseal.json(&["copy", "--back", &key]);
    assert_eq!(copied[0]["outcome"], "was there");
    refused("copied back");
    service.burst();
    refused("kept house");
    // Even where one copy is lost, which says less.
    damage(&dump);
    api.json(202, "POST", &path, "");
    service.burst();
    refused("damaged too");
}

/// A passphrase that nobody named any more opens no manifest: that says nothing of the backup, and nothing is written down that
/// retention would go by once it is named again. With one store or two.
#[test]
fn a_passphrase_that_is_missing_makes_no_backup_worse() {
    let (of_two, _first, second) = with_two_stores();
    let of_one = Service::start();
    for (mut service, copy_state) in [(of_two, "confirmed"), (of_one, "none")] {
        let (id, _) = service.enqueue_backup();
        service.burst();
        let facts = format!("health || ' ' || ('{copy_state}' = copy_state)");
        assert_eq!(service.backup(id, &facts), "ok true");
        let passphrase = "dummy-another-passphrase";
        service.pgseal.set("BACKUP_GPG_PASSPHRASE", passphrase);
        let api = Api::of(service);
        let service = &api.service;
        let path = format!("/api/admin/backups/{id}/verify");
        let verify = || {
            let asked = api.json(202, "POST", &path, "");
            service.burst();
            let status = service.job_status(asked["job_id"].as_str().unwrap());
            assert_eq!(status, "failed");
        };
        verify();
        assert_eq!(service.backup(id, &facts), "ok true");
        if copy_state == "confirmed" {
            // Nor where the second copy is gone, so that no manifest is left to compare with.
            let manifest = service
                .backup(id, "object_key")
                .replace(".dump.", ".manifest.");
            std::fs::remove_file(second.bucket().join(manifest)).unwrap();
            verify();
            assert_eq!(service.backup(id, "health"), "ok");
        }
    }
}

/// A pg_restore that somebody ends, or the kernel for want of memory, says nothing of what it was reading; one that crashes does.
#[test]
fn a_pg_restore_that_is_ended_says_nothing_of_the_backup() {
    let service = Service::start();
    let (id, _) = service.enqueue_backup();
    service.burst();
    let mut api = Api::of(service);
    let path = format!("/api/admin/backups/{id}/verify");
    for (signal, code, health) in [
        ("KILL", 1, "ok"),
        ("TERM", 1, "ok"),
        ("SEGV", 4, "CORRUPT"),
        ("KILL", 1, "CORRUPT"),
    ] {
        let script = format!("head -c 100 >/dev/null; kill -{signal} $$");
        let programs = clients(None, Some(&script));
        api.service.pgseal.with_clients(programs.path());
        let said = api.service.pgseal.fails(code, &["verify", "latest"]);
        assert!(said.contains("was ended by signal"), "{said}");
        assert_eq!(said.contains("then try again"), code == 1, "{said}");
        let asked = api.json(202, "POST", &path, "");
        api.service.burst();
        let status = api.service.job_status(asked["job_id"].as_str().unwrap());
        assert_eq!(status, "failed", "{signal}");
        assert_eq!(api.service.backup(id, "health"), health, "{signal}");
    }
}

/// The catalog calls a backup well whose damaged object was replaced, and not one that was there already: what was wrong with
/// that, its bytes did not show.
#[test]
fn a_row_is_well_where_its_object_was_mended() {
    let (service, first, _second) = with_two_stores();
    let id = replicated_by(&service);
    let key = service.backup(id, "object_key");
    let corrupt = "UPDATE pgseal.backups SET health = 'CORRUPT', health_reason = 'a test says so'";
    service.catalog.psql(corrupt);
    let back = |outcome: &str| {
        let lines = service.pgseal.json(&["copy", "--back", &key]);
        assert_eq!(lines[0]["outcome"], outcome);
    };
    back("was there");
    let facts = "health || ' ' || copy_state";
    assert_eq!(service.backup(id, facts), "CORRUPT confirmed");
    damage(&first.bucket().join(&key));
    back("copied");
    assert_eq!(service.backup(id, facts), "ok confirmed");
}
