//! What is said of two stores that do not agree, to whoever has to mend them.

use crate::copies::{key, replicated};
use crate::harness::cli::PASSPHRASE;
use crate::harness::postgres::Postgres;

/// Row 173: what cannot be read in the first store is not called missing there, and of what is not there nothing is said to be.
#[test]
fn what_is_said_of_two_stores_is_so() {
    let (first, second, mut pgseal, _source, made) = replicated("said_of_two");
    let to = Postgres::shared().url("postgres");
    pgseal.json(&["drill", "latest", "--to", &to]);
    let proof = key(&made).replace(".dump.", ".proof.");
    for store in [&first, &second] {
        assert!(store.objects().contains(&proof), "{:?}", store.objects());
    }
    pgseal.set("BACKUP_GPG_PASSPHRASE", "dummy-another-passphrase");
    let listed = pgseal.run(&["list"]);
    assert_eq!(listed.code, 0, "{listed}");
    let said = &listed.stderr;
    assert!(
        said.contains("1 backup that cannot be read in the first")
            && !said.contains("only the second store"),
        "{said}"
    );
    assert!(!said.contains("drill's record"), "{said}");
    pgseal.set("BACKUP_GPG_PASSPHRASE", PASSPHRASE);

    std::fs::remove_file(first.bucket().join(key(&made))).unwrap();
    for object in second.objects() {
        std::fs::remove_file(second.bucket().join(object)).unwrap();
    }
    let said = pgseal.fails(4, &["verify", key(&made)]);
    assert!(said.contains("its store has no sealed dump"), "{said}");

    // A first store that is misspelt is not made good by an empty one.
    let misspelt = pgseal.file("misspelt");
    for name in ["BACKUP_S3_BUCKET", "BACKUP_S3_ENDPOINT_URL"] {
        pgseal.unset(name);
    }
    pgseal.set("BACKUP_STORE", format!("file:{}", misspelt.display()));
    let said = pgseal.fails(5, &["list"]);
    assert!(said.contains("is not there"), "{said}");
}
