//! One contract for every store: a folder, a bucket, and a bucket that behaves like Backblaze B2; and what a bucket does to
//! an upload when it fails in the ways that S3-compatible servers fail.

use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pgseal::model::ids::Uid;
use pgseal::model::object_key::ObjectKey;
use pgseal::store::{ObjectHead, Store, StoreError, StoreSettings};
use time::OffsetDateTime;

use crate::harness::cli::files;
use crate::harness::folder;
use crate::harness::s3::{Action, Call, S3Server, backblaze, settings};

/// Larger than two parts, and no multiple of one.
const LARGE: usize = (20 << 20) + 3;

async fn bucket(server: &S3Server, spool: &Path) -> Store {
    let settings = server.settings(spool);
    Store::open(StoreSettings::S3(settings)).await.unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn uid() -> Uid {
    Uid::new(OffsetDateTime::now_utc())
}

/// Bytes that differ everywhere, so that a shifted or doubled part shows.
fn content(length: usize) -> Bytes {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

async fn upload(
    store: &Store,
    key: &ObjectKey,
    uid: Uid,
    content: &Bytes,
) -> Result<ObjectHead, StoreError> {
    let mut upload = store.upload(key, uid, None).await?;
    for chunk in content.chunks(700_001) {
        if let Err(error) = upload.write(Bytes::copy_from_slice(chunk)).await {
            upload.abort().await.unwrap();
            return Err(error);
        }
    }
    upload.commit().await
}

async fn fetched(store: &Store, head: &ObjectHead, spool: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    store
        .fetch(head, spool, |_| {})
        .await
        .unwrap()
        .read_to_end(&mut all)
        .unwrap();
    all
}

/// `stored` looks at everything that the store keeps, past pgseal; `versions` is how many it keeps of an object that was
/// written three times.
pub async fn keeps_the_contract(
    store: &Store,
    stored: impl AsyncFn() -> Vec<String>,
    versions: u64,
    spool: &Path,
) {
    store.check_bucket().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
    // Of every size: nothing, a byte, one part, several.
    for length in [0, 1, 8 << 20, LARGE] {
        let (key, uid, content) = (key(&format!("a/{length}.dump.gpg")), uid(), content(length));
        assert_eq!(store.head(&key).await.unwrap(), None);
        let head = upload(store, &key, uid, &content).await.unwrap();
        assert_eq!((head.bytes, head.uid), (length as u64, Some(uid)));
        assert_eq!(store.head(&key).await.unwrap().as_ref(), Some(&head));
        assert!(
            fetched(store, &head, spool).await == content,
            "{length} bytes came back changed"
        );
    }
    // Small objects, their limit, and names that are taken.
    let (small, owner) = (key("b/small"), uid());
    store
        .put(&small, Some(owner), Bytes::from_static(b"small"))
        .await
        .unwrap();
    store
        .put(&small, Some(owner), Bytes::from_static(b"again"))
        .await
        .unwrap();
    let (head, text) = store.read(&small, 5).await.unwrap();
    assert_eq!(
        (text.as_ref(), head.uid),
        (b"again".as_slice(), Some(owner))
    );
    assert!(matches!(
        store.read(&small, 4).await,
        Err(StoreError::TooLarge { .. })
    ));
    assert!(matches!(
        store.read(&key("b/none"), 4).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.put(&small, Some(uid()), Bytes::new()).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    assert!(matches!(
        store.put(&small, None, Bytes::new()).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    assert!(matches!(
        upload(store, &small, uid(), &content(1)).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    assert_eq!(store.read(&small, 5).await.unwrap().1, "again");

    // Listings go by prefix.
    let names = |listed: Vec<pgseal::store::ListedObject>| {
        listed
            .into_iter()
            .map(|object| (object.key.to_string(), object.bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(store.list("b/").await.unwrap()),
        [("b/small".to_owned(), 5)]
    );
    assert_eq!(store.list("").await.unwrap().len(), 5);
    assert_eq!(store.list("c/").await.unwrap(), []);

    // What was aborted or dropped is nowhere.
    for aborted in [true, false] {
        let mut upload = store
            .upload(&key("b/never"), uid(), Some(LARGE as u64))
            .await
            .unwrap();
        upload.write(content(LARGE)).await.unwrap();
        if aborted {
            upload.abort().await.unwrap();
        } else {
            drop(upload);
        }
        assert_eq!(store.head(&key("b/never")).await.unwrap(), None);
    }
    assert!(
        !stored()
            .await
            .iter()
            .any(|path| path.contains("never") || path.contains(".pgseal-stage-"))
    );

    // An object that was replaced between two looks is not mixed up.
    let before = store.head(&small).await.unwrap().unwrap();
    store
        .put(&small, Some(owner), Bytes::from_static(b"third"))
        .await
        .unwrap();
    match store.fetch(&before, spool, |_| {}).await {
        Err(StoreError::Changed { .. }) => assert_eq!(versions, 1),
        // The version that was looked at is still there.
        Ok(mut file) if versions > 1 => {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "again");
        }
        replaced => panic!("{replaced:?}"),
    }

    for object in store.list("").await.unwrap() {
        let written = if object.key == small { versions } else { 1 };
        assert_eq!(store.delete(&object.key).await.unwrap().versions, written);
        assert_eq!(store.head(&object.key).await.unwrap(), None);
    }
    assert_eq!(stored().await, Vec::<String>::new());
    store.delete(&small).await.unwrap();
    assert_eq!(files(spool), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_the_contract() {
    let (root, spool) = (folder(), folder());
    let store = Store::open(StoreSettings::Local {
        root: root.path().to_owned(),
    })
    .await
    .unwrap();
    keeps_the_contract(&store, async || files(root.path()), 1, spool.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract() {
    let (server, spool) = (S3Server::start(), folder());
    keeps_the_contract(
        &bucket(&server, spool.path()).await,
        async || files(&server.bucket()),
        1,
        spool.path(),
    )
    .await;
}

/// Row 33: no header that B2 refuses is sent, and its 503s are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_like_backblaze_keeps_the_contract() {
    let (server, spool) = (S3Server::start(), folder());
    server.hook(backblaze);
    keeps_the_contract(
        &bucket(&server, spool.path()).await,
        async || files(&server.bucket()),
        1,
        spool.path(),
    )
    .await;
}

/// Uploads through a server that fails, and says what came of it and of the server.
async fn through(
    hook: impl FnMut(&Call) -> Action + Send + 'static,
) -> (Result<ObjectHead, StoreError>, S3Server) {
    let (server, spool) = (S3Server::start(), folder());
    let store = bucket(&server, spool.path()).await;
    server.hook(hook);
    let (key, uid, content) = (key("a/large.dump.gpg"), uid(), content(LARGE));
    let outcome = upload(&store, &key, uid, &content).await;
    if let Ok(head) = &outcome {
        assert!(
            fetched(&store, head, spool.path()).await == content,
            "it came back changed"
        );
    } else {
        assert_eq!(
            server.objects(),
            Vec::<String>::new(),
            "a failed upload is visible"
        );
    }
    assert_eq!(
        server.unfinished(),
        Vec::<String>::new(),
        "parts stayed behind"
    );
    (outcome, server)
}

const UNAVAILABLE: &str = "<Error><Code>ServiceUnavailable</Code></Error>";

/// Rows 16 and 18: the first calls of each operation fail, hang, or are done without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_repeated() {
    // For each operation of an upload: its first and its second call fail, in every way that passes.
    type Way = (&'static str, fn() -> Action);
    let ways: [Way; 5] = [
        ("500", || Action::Answer(500, "")),
        ("503", || Action::Answer(503, UNAVAILABLE)),
        ("reset", || Action::Reset),
        ("hang", || Action::Hang(Duration::from_secs(20))),
        ("done, but 500", || Action::DoAndAnswer(500, "")),
    ];
    for operation in [
        "CreateMultipartUpload",
        "UploadPart",
        "ListParts",
        "CompleteMultipartUpload",
        "HeadObject",
        "GetObject",
    ] {
        for (way, action) in ways {
            // A second upload whose id was lost stays: only its age tells it from one that is going on.
            if operation == "CreateMultipartUpload" && way == "done, but 500" {
                continue;
            }
            // One time-out after another would only take longer.
            let times = if way == "hang" { 1 } else { 2 };
            let (outcome, _server) = through(move |call| {
                if call.operation == operation && call.count <= times {
                    action()
                } else {
                    Action::Pass
                }
            })
            .await;
            assert!(outcome.is_ok(), "{operation}, {way}: {outcome:?}");
        }
    }
}

/// Rows 20 to 23: what is no proper answer to a completion or a part.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_lie_are_not_believed() {
    // Completed with an error in a 200; with half an answer; with a page of HTML; without a word.
    for body in [
        "<Error><Code>InternalError</Code></Error>",
        "<CompleteMultipartUploadResult><Loc",
        "<html>",
        "",
    ] {
        let (outcome, server) = through(move |call| match (call.operation, call.count) {
            ("CompleteMultipartUpload", 1) => Action::Answer(200, body),
            _ => Action::Pass,
        })
        .await;
        assert!(outcome.is_ok(), "{body:?}: {outcome:?}");
        assert_eq!(
            server.calls("CompleteMultipartUpload"),
            2,
            "{body:?} was believed"
        );
    }
    // Done, but the answer was lost, and the second attempt finds no such upload: a look at the object decides.
    let (outcome, _server) = through(|call| match (call.operation, call.count) {
        ("CompleteMultipartUpload", 1) => Action::DoAndAnswer(500, ""),
        ("CompleteMultipartUpload", _) => {
            Action::Answer(404, "<Error><Code>NoSuchUpload</Code></Error>")
        }
        _ => Action::Pass,
    })
    .await;
    assert!(outcome.is_ok(), "{outcome:?}");
    // Neither done nor to be done: there is no object, and that decides too.
    let (outcome, server) = through(|call| match (call.operation, call.count) {
        ("CompleteMultipartUpload", 1) => Action::Answer(500, ""),
        ("CompleteMultipartUpload", _) => {
            Action::Answer(404, "<Error><Code>NoSuchUpload</Code></Error>")
        }
        _ => Action::Pass,
    })
    .await;
    assert!(outcome.unwrap_err().to_string().contains("NoSuchUpload"));
    assert_eq!(server.calls("CompleteMultipartUpload"), 2);
    // An error in an answer of 200, however often it is asked.
    let (outcome, server) = through(|call| match call.operation {
        "CompleteMultipartUpload" => {
            Action::Answer(200, "<Error><Code>InternalError</Code></Error>")
        }
        _ => Action::Pass,
    })
    .await;
    assert!(outcome.unwrap_err().is_transient());
    assert!(server.calls("CompleteMultipartUpload") > 2);
    let (outcome, _server) = through(|call| {
        if call.operation == "UploadPart" {
            Action::WithoutEtag
        } else {
            Action::Pass
        }
    })
    .await;
    assert!(outcome.unwrap_err().to_string().contains("no ETag"));
}

/// Rows 17 and 30: 403 and its like end an upload at once, 503 when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_succeed_is_not_tried_for_long() {
    for (status, body) in [
        (403, "<Error><Code>AccessDenied</Code></Error>"),
        (307, "<Error><Code>TemporaryRedirect</Code></Error>"),
        (400, "<Error><Code>InvalidArgument</Code></Error>"),
    ] {
        let (outcome, server) = through(move |call| {
            if call.operation == "UploadPart" {
                Action::Answer(status, body)
            } else {
                Action::Pass
            }
        })
        .await;
        assert!(!outcome.unwrap_err().is_transient());
        assert!(
            server.calls("UploadPart") <= 3,
            "{status} was tried {} times",
            server.calls("UploadPart")
        );
    }
    // A store that never comes back ends within its budget.
    let (outcome, _server) = through(|call| {
        if call.operation == "UploadPart" {
            Action::Answer(503, UNAVAILABLE)
        } else {
            Action::Pass
        }
    })
    .await;
    assert!(outcome.unwrap_err().is_transient());
}

/// Row 38: a download that is cut goes on by range, and asks for the very object that it began with.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_download_goes_on_where_it_ended() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let (outcome, server) = through(move |call| {
        if call.operation == "GetObject" {
            let range = call
                .headers
                .get("range")
                .map(|range| range.to_str().unwrap());
            let from = range.map_or(0, |range| {
                let from = range.strip_prefix("bytes=").unwrap().trim_end_matches('-');
                from.parse::<u64>().unwrap()
            });
            let pinned = call.headers.contains_key("if-match");
            noted.lock().unwrap().push((from, pinned));
        }
        match (call.operation, call.count) {
            ("GetObject", 1) => Action::Cut(5_000_000),
            ("GetObject", 2) => Action::Cut(1),
            ("GetObject", 3) => Action::Reset,
            _ => Action::Pass,
        }
    })
    .await;
    assert!(outcome.is_ok());
    assert_eq!(server.calls("GetObject"), 4);
    let (from, pinned): (Vec<u64>, Vec<bool>) = asked.lock().unwrap().iter().copied().unzip();
    // The first cut left most of its bytes, the second one at most, the third none.
    assert!(
        from[0] == 0 && (4_000_000..=5_000_000).contains(&from[1]),
        "{from:?}"
    );
    assert!(
        from[1] <= from[2] && from[2] == from[3] && from[3] <= from[1] + 1,
        "{from:?}"
    );
    assert_eq!(
        pinned, [true; 4],
        "what it went on with could be another object"
    );
}

/// Row 24: also where it is one small object, and where the loss shows at the look that confirms it.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_shorter_than_sent_is_found_out() {
    let (server, spool) = (S3Server::start(), folder());
    let store = bucket(&server, spool.path()).await;
    let file = server.bucket().join("a/large.dump.gpg");
    let short = file.clone();
    // The server puts it together, loses its end, and says that all is well.
    server.hook(move |call| {
        if call.operation == "HeadObject" && short.exists() {
            std::fs::File::options()
                .write(true)
                .open(&short)
                .unwrap()
                .set_len(1000)
                .unwrap();
        }
        Action::Pass
    });
    for length in [LARGE, 5000] {
        let outcome = upload(&store, &key("a/large.dump.gpg"), uid(), &content(length)).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("the store has 1000"), "{error}");
        assert!(!file.exists(), "it is still there");
    }
}

/// Row 31.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named() {
    let (server, spool) = (S3Server::start(), folder());
    let store = bucket(&server, spool.path()).await;
    std::fs::remove_dir(server.bucket()).unwrap();
    let error = store.check_bucket().await.unwrap_err().to_string();
    assert!(error.contains("BACKUP_S3_BUCKET"), "{error}");
}

/// Row 42.
#[tokio::test(flavor = "multi_thread")]
async fn long_listings_are_whole() {
    let (root, server, spool) = (folder(), S3Server::start(), folder());
    let local = Store::open(StoreSettings::Local {
        root: root.path().to_owned(),
    })
    .await
    .unwrap();
    // More than two of S3's pages of a thousand.
    for place in [root.path(), &server.bucket()] {
        std::fs::create_dir(place.join("many")).unwrap();
        for number in 0..2500 {
            std::fs::write(place.join(format!("many/{number}.gpg")), "x").unwrap();
        }
    }
    for store in [local, bucket(&server, spool.path()).await] {
        assert_eq!(store.list("many/").await.unwrap().len(), 2500);
    }
    assert!(server.calls("ListObjects") >= 3);
}

/// Row 19: a part that was cut on its way is sent again with the same bytes, also where it is too large for the memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_from_the_spool_is_sent_again() {
    let (server, spool) = (S3Server::start(), folder());
    let store = bucket(&server, spool.path()).await;
    server.hook(|call| match (call.operation, call.count) {
        ("UploadPart", 1) => Action::ResetAfter(20_000_000),
        ("UploadPart", 2) => Action::DoAndReset,
        _ => Action::Pass,
    });
    let (key, content) = (key("a/spooled.dump.gpg"), content(30 << 20));
    // What is expected to be this large has parts of 26 MiB, and no part above 16 is held in memory.
    let mut upload = store.upload(&key, uid(), Some(200 << 30)).await.unwrap();
    upload.write(content.clone()).await.unwrap();
    let head = upload.commit().await.unwrap();
    assert_eq!(server.calls("UploadPart"), 4);
    assert!(fetched(&store, &head, spool.path()).await == content);
    assert_eq!(files(spool.path()), Vec::<String>::new());
}

/// Row 28: parts that are still arriving while an upload is aborted are gone with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_part_does_not_outlive_its_upload() {
    let (server, spool) = (S3Server::start(), folder());
    let store = bucket(&server, spool.path()).await;
    server.hook(|call| match call.operation {
        "UploadPart" => Action::Late(Duration::from_millis(300)),
        _ => Action::Pass,
    });
    let mut upload = store.upload(&key("a/late"), uid(), None).await.unwrap();
    upload.write(content(LARGE)).await.unwrap();
    while server.calls("UploadPart") < 2 {
        tokio::task::yield_now().await;
    }
    upload.abort().await.unwrap();
    assert_eq!(server.calls("AbortMultipartUpload"), 1);
    // Longer than any of them can still be under way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.unfinished(), Vec::<String>::new());
}

/// Row 18: a host that takes no connection, as behind a firewall that drops packets, is given up in time, and named.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Once the queue of those who wait to be accepted is full, the system leaves further ones without an answer.
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
    let waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).take(10_000).collect();
    assert!(waiting.len() < 10_000, "the queue has no end");
    let spool = folder();
    let mut settings = settings(&format!("http://{address}"), "b", spool.path());
    settings.retry.attempt_timeout = Duration::from_millis(300);
    settings.retry.call_budget = Duration::from_millis(800);
    let store = Store::open(StoreSettings::S3(settings)).await.unwrap();
    let started = std::time::Instant::now();
    let error = store.check_bucket().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("BACKUP_S3_ENDPOINT_URL"));
    let tries: u32 = error
        .to_string()
        .split("tried ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((2..=4).contains(&tries), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
