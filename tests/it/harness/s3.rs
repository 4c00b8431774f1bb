//! An S3 server in this process, with real signatures, and a hook in front of it that injects what goes wrong.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use pgseal::store::{PART_BYTES_FIRST, PlainHttp, RetryPolicy, S3Settings};
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::cli::{Pgseal, files};
use super::folder;

pub const BUCKET: &str = "test-bucket";
pub const ACCESS_KEY: &str = "dummy-access-key";
/// A dummy that secrets tests look for.
pub const SECRET_KEY: &str = "dummy-secret-key-canary";

/// The same for the second store: every server takes both.
pub const COPY_ACCESS_KEY: &str = "dummy-copy-access-key";
pub const COPY_SECRET_KEY: &str = "dummy-copy-secret-key-canary";

/// One request, as a hook sees it.
pub struct Call {
    /// The S3 operation's name.
    pub operation: &'static str,
    /// How often this operation was called so far, this time included.
    pub count: usize,
    /// How many requests of any kind there were so far, this one included.
    pub number: usize,
    /// The key; empty where the request is about the bucket.
    pub key: String,
    pub headers: HeaderMap,
}

/// What becomes of a request.
pub enum Action {
    /// The store does it.
    Pass,
    /// The store does not hear of it; this is the answer.
    Answer(u16, &'static str),
    /// The store does it, but this is the answer.
    DoAndAnswer(u16, &'static str),
    /// The store takes a part so much later, even where the client is gone by then or has aborted the upload.
    Late(Duration),
    /// The connection is cut before the store hears of it.
    Reset,
    /// The connection is cut after so many bytes of the request's body; the store does not hear of it.
    ResetAfter(usize),
    /// The store does it, but the connection is cut before the answer.
    DoAndReset,
    /// The store does it, then loses the second half of what it was given, and answers that all is well.
    Shorten,
    /// The store does not hear of it; the client is sent to another place.
    Redirect(String),
    /// No answer for so long.
    Hang(Duration),
    /// The store does it; no answer for so long.
    DoAndHang(Duration),
    /// The store does it; the answer has no ETag.
    WithoutEtag,
    /// The store does it; the answer's body is cut after so many bytes, and the connection with it.
    Cut(usize),
    /// The store does it; one bit of the answer's body is flipped, in the byte at this position from its end.
    Flip(usize),
}

type Hook = Box<dyn FnMut(&Call) -> Action + Send>;

/// A running server with one bucket. Dropping it ends it.
pub struct S3Server {
    root: TempDir,
    endpoint: String,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct State {
    root: PathBuf,
    small_parts: bool,
    hook: Hook,
    /// The operations of all requests, in their order.
    calls: Vec<&'static str>,
}

impl S3Server {
    pub fn start() -> Self {
        Self::start_behind(None)
    }

    /// Speaks TLS, as the host that the certificate names.
    pub fn start_with_tls(certificate: ServerConfig) -> Self {
        Self::start_behind(Some(TlsAcceptor::from(Arc::new(certificate))))
    }

    fn start_behind(tls: Option<TlsAcceptor>) -> Self {
        let root = folder();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        let mut auth = SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
        auth.register(COPY_ACCESS_KEY.to_owned(), COPY_SECRET_KEY.into());
        service.set_auth(auth);
        let service = service.build();
        let state = Arc::new(Mutex::new(State {
            root: root.path().to_owned(),
            small_parts: false,
            hook: Box::new(|_| Action::Pass),
            calls: Vec::new(),
        }));
        let (stop, stopped) = oneshot::channel();
        let (ready, port) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! { _ = stopped => {}, never = serve(listener, tls, service, shared) => match never {} }
            });
            runtime.shutdown_background();
        });
        let endpoint = format!("{scheme}://127.0.0.1:{}", port.recv().unwrap());
        Self {
            root,
            endpoint,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the bucket's objects are as files.
    pub fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Injects faults from here on; the counts start anew.
    pub fn hook(&self, hook: impl FnMut(&Call) -> Action + Send + 'static) {
        let mut state = self.state.lock().unwrap();
        state.hook = Box::new(hook);
        state.calls.clear();
    }

    /// Takes parts of any size from here on, so that many parts can be few bytes: S3 itself, and s3s-fs as well, refuse
    /// any but the last below 5 MiB.
    pub fn take_small_parts(&self) {
        self.state.lock().unwrap().small_parts = true;
    }

    /// How often an operation was called since the last [`S3Server::hook`].
    pub fn calls(&self, operation: &str) -> usize {
        let state = self.state.lock().unwrap();
        state
            .calls
            .iter()
            .filter(|called| **called == operation)
            .count()
    }

    /// The operations of all requests since the last [`S3Server::hook`], in their order.
    pub fn operations(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().calls.clone()
    }

    /// The program, with this bucket as its store.
    pub fn pgseal(&self) -> Pgseal {
        let mut pgseal = Pgseal::new();
        self.set_up(&mut pgseal);
        pgseal
    }

    /// Makes this bucket the store.
    pub fn set_up(&self, pgseal: &mut Pgseal) {
        pgseal.unset("BACKUP_STORE");
        pgseal
            .set("BACKUP_S3_ENDPOINT_URL", &self.endpoint)
            .set("BACKUP_S3_BUCKET", BUCKET);
        pgseal
            .set("BACKUP_S3_ACCESS_KEY_ID", ACCESS_KEY)
            .set("BACKUP_S3_SECRET_ACCESS_KEY", SECRET_KEY);
    }

    /// Makes this bucket the second store.
    pub fn set_up_copy(&self, pgseal: &mut Pgseal) {
        pgseal
            .set("BACKUP_COPY_S3_ENDPOINT_URL", &self.endpoint)
            .set("BACKUP_COPY_S3_BUCKET", BUCKET);
        pgseal
            .set("BACKUP_COPY_S3_ACCESS_KEY_ID", COPY_ACCESS_KEY)
            .set("BACKUP_COPY_S3_SECRET_ACCESS_KEY", COPY_SECRET_KEY);
    }

    /// Takes that back: there is no second store.
    pub fn take_out_copy(pgseal: &mut Pgseal) {
        for setting in [
            "ENDPOINT_URL",
            "BUCKET",
            "ACCESS_KEY_ID",
            "SECRET_ACCESS_KEY",
        ] {
            pgseal.unset(&format!("BACKUP_COPY_S3_{setting}"));
        }
    }

    /// How the library reaches this bucket, with little patience: what repeats, repeats at once.
    pub fn settings(&self, spool_folder: &Path) -> S3Settings {
        settings(&self.endpoint, BUCKET, spool_folder)
    }

    /// The keys of all objects: s3s-fs keeps metadata and unfinished uploads in hidden files of the root.
    pub fn objects(&self) -> Vec<String> {
        files(&self.bucket())
    }

    /// Where the server remembers the objects' ETags; without its file, one is made of the object's content.
    pub fn etags(&self) -> Vec<PathBuf> {
        files(self.root.path())
            .into_iter()
            .filter(|path| path.ends_with(".internal.json"))
            .map(|path| self.root.path().join(path))
            .collect()
    }

    /// What uploads that were neither completed nor aborted have left.
    pub fn unfinished(&self) -> Vec<String> {
        files(self.root.path())
            .into_iter()
            .filter(|path| is_upload(path))
            .collect()
    }
}

/// A bucket at an endpoint, with this harness's keys and a policy that ends within seconds.
pub fn settings(endpoint: &str, bucket: &str, spool_folder: &Path) -> S3Settings {
    S3Settings {
        endpoint_url: Some(endpoint.to_owned()),
        region: None,
        bucket: bucket.to_owned(),
        access_key_id: Some(ACCESS_KEY.to_owned()),
        secret_access_key: Some(SECRET_KEY.into()),
        path_style: true,
        plain_http: PlainHttp::Refused,
        retry: RetryPolicy {
            call_budget: Duration::from_secs(5),
            transfer_budget: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(2),
            completion_timeout: Duration::from_secs(2),
            delay_first: Duration::from_millis(5),
            delay_max: Duration::from_millis(50),
        },
        part_bytes: PART_BYTES_FIRST,
        spool_folder: spool_folder.to_owned(),
    }
}

/// `.upload-{id}.json` and `.upload_id-{id}.part-{number}` (s3s-fs 0.14.1, `fs.rs`).
fn is_upload(path: &str) -> bool {
    Path::new(path)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(".upload"))
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Backblaze B2 as it was met: no checksum headers, no conditional writes, a 503 now and then.
pub fn backblaze(call: &Call) -> Action {
    const REFUSED: [&str; 3] = [
        "x-amz-checksum-",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-trailer",
    ];
    let names = || call.headers.keys().map(hyper::http::HeaderName::as_str);
    if names().any(|name| REFUSED.iter().any(|refused| name.starts_with(refused))) {
        return Action::Answer(
            400,
            "<Error><Code>InvalidArgument</Code><Message>Unsupported header</Message></Error>",
        );
    }
    if names().any(|name| name == "if-none-match") {
        return Action::Answer(501, "<Error><Code>NotImplemented</Code></Error>");
    }
    if call.count % 5 == 2 {
        return Action::Answer(
            503,
            "<Error><Code>ServiceUnavailable</Code><Message>no tomes available</Message></Error>",
        );
    }
    Action::Pass
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S3Service,
    state: Arc<Mutex<State>>,
) -> Infallible {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        let (service, state, tls) = (service.clone(), Arc::clone(&state), tls.clone());
        tokio::spawn(async move {
            let handler = hyper::service::service_fn(move |request| {
                answer(request, service.clone(), Arc::clone(&state))
            });
            let server = Builder::new(TokioExecutor::new());
            // A cut connection is what some tests ask for, and a refused certificate what others do.
            match tls {
                None => drop(server.serve_connection(TokioIo::new(socket), handler).await),
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        drop(server.serve_connection(TokioIo::new(socket), handler).await);
                    }
                }
            }
        });
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    state: Arc<Mutex<State>>,
) -> Result<Response<Body>, Failure> {
    let stored = stored_by(&request);
    let (action, root, small_parts) = {
        let mut state = state.lock().unwrap();
        let call = state.count(&request);
        let action = (state.hook)(&call);
        (action, state.root.clone(), state.small_parts)
    };
    let act = async |request: Request<Incoming>| {
        if small_parts && operation(&request) == "CompleteMultipartUpload" {
            return complete(request, &root).await;
        }
        service
            .call(request.map(Body::from))
            .await
            .map_err(Failure::from)
    };
    match action {
        Action::Pass => act(request).await,
        Action::Answer(status, body) => {
            // As a server does: an answer before the request was read looks like a cut connection.
            request.into_body().collect().await?;
            Ok(plain(status, body))
        }
        Action::DoAndAnswer(status, body) => act(request).await.map(|_| plain(status, body)),
        Action::Late(delay) => {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            // A task of its own: this one ends when the client closes the connection.
            let late = tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let request = Request::from_parts(head, Body::from(body.clone()));
                let response = service.call(request).await.map_err(Failure::from)?;
                if !response.status().is_success() {
                    std::fs::write(root.join(stored), body)?;
                }
                Ok(response)
            });
            late.await?
        }
        Action::Reset => Err(CUT.into()),
        Action::ResetAfter(bytes) => {
            let mut body = request.into_body();
            let mut read = 0;
            while let Some(frame) = body.frame().await.filter(|_| read < bytes) {
                read += frame?.data_ref().map_or(0, Bytes::len);
            }
            Err(CUT.into())
        }
        Action::DoAndReset => act(request).await.and(Err(CUT.into())),
        Action::Hang(duration) => {
            tokio::time::sleep(duration).await;
            Err(CUT.into())
        }
        Action::DoAndHang(duration) => {
            act(request).await?;
            tokio::time::sleep(duration).await;
            Err(CUT.into())
        }
        Action::Shorten => {
            let response = act(request).await?;
            let file = std::fs::File::options()
                .write(true)
                .open(root.join(stored))?;
            file.set_len(file.metadata()?.len() / 2)?;
            Ok(response)
        }
        Action::Redirect(place) => {
            request.into_body().collect().await?;
            let mut response = plain(307, "<Error><Code>TemporaryRedirect</Code></Error>");
            response
                .headers_mut()
                .insert("location", place.parse().unwrap());
            Ok(response)
        }
        Action::WithoutEtag => {
            let mut response = act(request).await?;
            response.headers_mut().remove("etag");
            Ok(response)
        }
        Action::Cut(bytes) => {
            let (mut head, body) = act(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            if body.is_empty() {
                return Err(CUT.into());
            }
            head.headers.insert("content-length", body.len().into());
            Ok(Response::from_parts(head, cut(&body, bytes)))
        }
        Action::Flip(from_end) => {
            let (head, body) = act(request).await?.into_parts();
            let mut body = Vec::from(body.collect().await?.to_bytes());
            let position = body.len() - from_end;
            body[position] ^= 1;
            Ok(Response::from_parts(head, Body::from(body)))
        }
    }
}

/// What s3s-fs does to complete an upload, without its look at the parts' sizes.
async fn complete(request: Request<Incoming>, root: &Path) -> Result<Response<Body>, Failure> {
    let object = root.join(request.uri().path().trim_start_matches('/'));
    let id = value(&request, "uploadId").unwrap_or_default().to_owned();
    request.into_body().collect().await?;
    if !root.join(format!(".upload-{id}.json")).exists() {
        return Ok(plain(404, "<Error><Code>NoSuchUpload</Code></Error>"));
    }
    std::fs::create_dir_all(object.parent().unwrap())?;
    let mut whole = Vec::new();
    let part = |number: usize| root.join(format!(".upload_id-{id}.part-{number}"));
    for part in (1..).map(part).take_while(|part| part.exists()) {
        whole.extend(std::fs::read(&part)?);
        std::fs::remove_file(part)?;
    }
    std::fs::write(object, whole)?;
    let suffix = format!(".upload-{id}.metadata.json");
    for name in std::fs::read_dir(root)?.map(|entry| Ok::<_, Failure>(entry?.file_name())) {
        let name = name?.to_string_lossy().into_owned();
        if let Some(of_object) = name.strip_suffix(&suffix) {
            let target = root.join(format!("{of_object}.metadata.json"));
            std::fs::rename(root.join(&name), target)?;
        }
    }
    std::fs::remove_file(root.join(format!(".upload-{id}.json")))?;
    let done =
        "<CompleteMultipartUploadResult><ETag>\"dummy\"</ETag></CompleteMultipartUploadResult>";
    Ok(plain(200, done))
}

/// Why a connection ends that a test wants cut.
const CUT: &str = "cut by the test";

/// A body that ends before its end, as over a broken connection. It comes in small pieces, with time between them to be
/// sent, so that most of what was promised is really there.
fn cut(body: &Bytes, bytes: usize) -> Body {
    let sent = body.slice(..bytes.min(body.len()));
    let pieces = stream::unfold(sent, |mut rest| async {
        tokio::task::yield_now().await;
        let piece = rest.split_to(rest.len().min(64 << 10));
        if piece.is_empty() {
            return Some((Err(CUT), rest));
        }
        Some((Ok(Frame::data(piece)), rest))
    });
    Body::http_body_unsync(StreamBody::new(pieces))
}

fn plain(status: u16, body: &'static str) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Body::from(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

impl State {
    fn count(&mut self, request: &Request<Incoming>) -> Call {
        let operation = operation(request);
        self.calls.push(operation);
        let same = self.calls.iter().filter(|called| **called == operation);
        let path = request.uri().path().trim_start_matches('/');
        let key = path.strip_prefix(BUCKET).unwrap_or_default();
        Call {
            operation,
            count: same.count(),
            number: self.calls.len(),
            key: key.trim_start_matches('/').to_owned(),
            headers: request.headers().clone(),
        }
    }
}

/// The file, below the root, that holds what a request gives the store: a part's, or an object's.
fn stored_by(request: &Request<Incoming>) -> String {
    match (value(request, "uploadId"), value(request, "partNumber")) {
        (Some(id), Some(number)) => format!(".upload_id-{id}.part-{number}"),
        _ => request.uri().path().trim_start_matches('/').to_owned(),
    }
}

/// What the query says of a name.
fn value<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn operation(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| {
        query.split('&').any(|pair| {
            pair == name
                || pair
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('='))
        })
    };
    let in_bucket = request.uri().path().trim_matches('/') == BUCKET;
    match (request.method().as_str(), in_bucket) {
        ("HEAD", true) => "HeadBucket",
        ("HEAD", false) => "HeadObject",
        ("GET", true) if has("versions") => "ListObjectVersions",
        ("GET", true) if has("uploads") => "ListMultipartUploads",
        ("GET", true) => "ListObjects",
        ("GET", false) if has("uploadId") => "ListParts",
        ("GET", false) => "GetObject",
        ("POST", true) if has("delete") => "DeleteObjects",
        ("POST", false) if has("uploads") => "CreateMultipartUpload",
        ("POST", false) => "CompleteMultipartUpload",
        ("PUT", false) if has("partNumber") => "UploadPart",
        ("PUT", false) => "PutObject",
        ("DELETE", false) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        _ => "other",
    }
}
