//! The first copy, mended from the second.

use crate::copies::{bytes, damage, key, replicated, restored};
use crate::copies_service::{DENIED, replicated as replicated_by, with_two_stores};
use crate::harness::postgres::Postgres;
use crate::harness::s3::Action;

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
    let asked = service.enqueue_restore(id);
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

    let key = service.backup(safety, "object_key");
    service.pgseal.ok(&["copy", "--back", &key]);
    assert_eq!(service.backup(safety, facts), "ok confirmed nothing");
    assert_eq!(first.objects(), second.objects());
    service.burst();
    assert_eq!(service.backup(safety, facts), "ok confirmed nothing");
    service.pgseal.ok(&["verify", &key]);
}
