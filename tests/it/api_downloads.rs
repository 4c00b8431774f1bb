//! The sealed object through the API: whole and in parts, from a folder and from a bucket.

use serde_json::json;

use crate::harness::api::Api;
use crate::harness::s3::S3Server;
use crate::harness::service::Service;

/// A complete backup: its number, and its path below which the API has it.
fn made(api: &Api) -> (i64, String) {
    let made = api.json(202, "POST", "/api/admin/backups", "");
    api.service.burst();
    let id = made["id"].as_i64().unwrap();
    (id, format!("/api/admin/backups/{id}/download"))
}

/// It comes as it is stored, whole and in every kind of part.
fn comes_as_stored(api: &Api, id: i64, path: &str, stored: &[u8]) {
    let whole = api.ask("GET", path, "");
    assert_eq!((whole.status, whole.body == stored), (200, true));
    let etag = whole.header("etag").unwrap().to_owned();
    let digest = api.service.backup(id, "encode(sealed_sha256, 'hex')");
    assert_eq!(etag, format!("\"{digest}\""));
    let head = api.ask("HEAD", path, "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(
        head.header("content-length"),
        Some(stored.len().to_string().as_str())
    );
    let range = |range: &str| api.with("GET", path, &[("Range", range)], "");
    let part = api.with(
        "GET",
        path,
        &[("Range", "bytes=100-199"), ("If-Range", &etag)],
        "",
    );
    assert_eq!((part.status, &part.body[..]), (206, &stored[100..200]));
    assert_eq!(
        part.header("content-range"),
        Some(format!("bytes 100-199/{}", stored.len()).as_str())
    );
    let end = stored.len() - 5;
    for last in [format!("bytes={end}-"), "bytes=-5".to_owned()] {
        assert_eq!(&range(&last).body[..], &stored[end..], "{last}");
    }
    // Of another object there is no part: it comes whole.
    let other = [("Range", "bytes=100-199"), ("If-Range", "\"another\"")];
    let whole = api.with("GET", path, &other, "");
    assert_eq!((whole.status, whole.body == stored), (200, true));
    range("bytes=999999999999-").is_problem(416, "range_not_satisfiable");
}

#[test]
fn a_sealed_object_is_downloaded_whole_and_in_parts() {
    let api = Api::start();
    let (id, path) = made(&api);
    let object = api
        .service
        .pgseal
        .store()
        .join(api.service.backup(id, "object_key"));
    let stored = std::fs::read(&object).unwrap();
    comes_as_stored(&api, id, &path, &stored);
    let answer = api.bare("GET", &path, &[], "");
    answer.is_problem(401, "unauthorized");
    let sql = "SELECT count(*) FROM pgseal.audit WHERE action = 'backup.download'";
    assert_eq!(api.service.catalog.psql(sql), "7");

    std::fs::write(&object, b"another").unwrap();
    api.problem(409, "object_changed", ("GET", &path, ""));
    std::fs::remove_file(&object).unwrap();
    api.problem(409, "object_lost", ("GET", &path, ""));
}

#[test]
fn a_sealed_object_of_a_bucket_is_downloaded_too() {
    let s3 = S3Server::start();
    let mut service = Service::start();
    s3.set_up(&mut service.pgseal);
    let api = Api::of(service);
    let (id, path) = made(&api);
    let object = s3.bucket().join(api.service.backup(id, "object_key"));
    let stored = std::fs::read(&object).unwrap();
    comes_as_stored(&api, id, &path, &stored);

    // As many bytes, and other ones: what was written for this backup has another ETag.
    let record = api.json(200, "GET", &format!("/api/admin/backups/{id}"), "");
    assert_eq!(record["health"], json!("ok"));
    std::fs::remove_file(&object).unwrap();
    api.problem(409, "object_lost", ("GET", &path, ""));
}
