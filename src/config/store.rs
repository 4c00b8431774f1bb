//! Where backups are, where their copies are, and how they are named. Both stores have the same settings, read by the same
//! code: the second one's names begin with `BACKUP_COPY_`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::ConfigError;
use super::environment::{is_set, secret};
use crate::store::{PART_BYTES_FIRST, PlainHttp, RetryPolicy, S3Settings, StoreSettings};

/// Where backups go when nothing is said.
const STORE_DEFAULT: &str = "file:./pgseal-backups";

/// How one store's settings are called; none of them is a value.
struct Names {
    store: &'static str,
    bucket: &'static str,
    access_key_id: &'static str,
    secret: &'static str,
    secret_file: &'static str,
}

const FIRST: Names = Names {
    store: "BACKUP_STORE",
    bucket: "BACKUP_S3_BUCKET",
    access_key_id: "BACKUP_S3_ACCESS_KEY_ID",
    secret: "BACKUP_S3_SECRET_ACCESS_KEY",
    secret_file: "BACKUP_S3_SECRET_ACCESS_KEY_FILE",
};

const SECOND: Names = Names {
    store: "BACKUP_COPY_STORE",
    bucket: "BACKUP_COPY_S3_BUCKET",
    access_key_id: "BACKUP_COPY_S3_ACCESS_KEY_ID",
    secret: "BACKUP_COPY_S3_SECRET_ACCESS_KEY",
    secret_file: "BACKUP_COPY_S3_SECRET_ACCESS_KEY_FILE",
};

/// Where backups are and how they are named.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Where backups are kept: file:FOLDER or s3://BUCKET [default: the bucket, if one is named; else file:./pgseal-backups]
    #[arg(
        long,
        global = true,
        env = "BACKUP_STORE",
        value_name = "URL",
        hide_short_help = true
    )]
    store: Option<String>,
    /// First part of every object's name
    #[arg(
        long,
        global = true,
        env = "BACKUP_PREFIX",
        value_name = "TEXT",
        default_value = "backups",
        hide_short_help = true
    )]
    pub(super) prefix: String,
    /// Second part of every object's name, so that production and staging can share a bucket
    #[arg(
        long,
        global = true,
        env = "BACKUP_ENVIRONMENT",
        value_name = "NAME",
        default_value = "prod",
        hide_short_help = true
    )]
    pub(super) environment: String,
    /// Endpoint of an S3-compatible store [default: Amazon's]
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_ENDPOINT_URL",
        value_name = "URL",
        hide_short_help = true
    )]
    s3_endpoint_url: Option<String>,
    /// Region that requests are signed for
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_REGION",
        value_name = "REGION",
        hide_short_help = true
    )]
    s3_region: Option<String>,
    /// Bucket
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_BUCKET",
        value_name = "NAME",
        hide_short_help = true
    )]
    s3_bucket: Option<String>,
    /// Key id; its secret comes from BACKUP_S3_SECRET_ACCESS_KEY or BACKUP_S3_SECRET_ACCESS_KEY_FILE alone
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_ACCESS_KEY_ID",
        value_name = "ID",
        hide_short_help = true
    )]
    s3_access_key_id: Option<String>,
    /// Put the bucket into the path instead of the host name
    #[arg(long, global = true, env = "BACKUP_S3_PATH_STYLE", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    s3_path_style: Option<bool>,
    /// Allow http:// to another machine
    #[arg(long, global = true, env = "BACKUP_S3_ALLOW_HTTP", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    s3_allow_http: Option<bool>,
    /// Folder for sealed copies of what is fetched from S3 [default: the system's folder for temporary files]
    #[arg(
        long,
        global = true,
        env = "BACKUP_SPOOL_DIR",
        value_name = "FOLDER",
        hide_short_help = true
    )]
    pub(super) spool_dir: Option<PathBuf>,
}

/// Where the second copy of each backup is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Second store")]
pub struct CopyStoreArgs {
    /// Where each backup is copied to: file:FOLDER or s3://BUCKET [default: the bucket, if one is named; else nowhere]
    #[arg(
        id = "copy_store",
        long = "copy-store",
        global = true,
        env = "BACKUP_COPY_STORE",
        value_name = "URL",
        hide_short_help = true
    )]
    store: Option<String>,
    /// Endpoint of the second store [default: Amazon's]
    #[arg(
        id = "copy_s3_endpoint_url",
        long = "copy-s3-endpoint-url",
        global = true,
        env = "BACKUP_COPY_S3_ENDPOINT_URL",
        value_name = "URL",
        hide_short_help = true
    )]
    s3_endpoint_url: Option<String>,
    /// Region that requests to the second store are signed for
    #[arg(
        id = "copy_s3_region",
        long = "copy-s3-region",
        global = true,
        env = "BACKUP_COPY_S3_REGION",
        value_name = "REGION",
        hide_short_help = true
    )]
    s3_region: Option<String>,
    /// Bucket of the second store
    #[arg(
        id = "copy_s3_bucket",
        long = "copy-s3-bucket",
        global = true,
        env = "BACKUP_COPY_S3_BUCKET",
        value_name = "NAME",
        hide_short_help = true
    )]
    s3_bucket: Option<String>,
    /// Key id; its secret comes from BACKUP_COPY_S3_SECRET_ACCESS_KEY or BACKUP_COPY_S3_SECRET_ACCESS_KEY_FILE alone
    #[arg(
        id = "copy_s3_access_key_id",
        long = "copy-s3-access-key-id",
        global = true,
        env = "BACKUP_COPY_S3_ACCESS_KEY_ID",
        value_name = "ID",
        hide_short_help = true
    )]
    s3_access_key_id: Option<String>,
    /// Put the second store's bucket into the path instead of the host name
    #[arg(id = "copy_s3_path_style", long = "copy-s3-path-style", global = true, env = "BACKUP_COPY_S3_PATH_STYLE", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    s3_path_style: Option<bool>,
    /// Allow http:// to another machine that is the second store
    #[arg(id = "copy_s3_allow_http", long = "copy-s3-allow-http", global = true, env = "BACKUP_COPY_S3_ALLOW_HTTP", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    s3_allow_http: Option<bool>,
}

/// One store's settings as they were read, whichever it is.
struct Place<'a> {
    names: &'static Names,
    store: Option<&'a str>,
    endpoint_url: Option<&'a str>,
    region: Option<&'a str>,
    bucket: Option<&'a str>,
    access_key_id: Option<&'a str>,
    path_style: bool,
    allow_http: bool,
}

impl StoreArgs {
    pub(super) fn settings(&self, spool_folder: PathBuf) -> Result<StoreSettings, ConfigError> {
        let place = self.place();
        // Somebody who set any of it meant a bucket: backups must not go to this machine's own disk because its name is missing.
        let url = place.url().unwrap_or(STORE_DEFAULT);
        place.settings(url, spool_folder)
    }

    /// Whether anything says where backups go.
    pub(super) fn is_named(&self) -> bool {
        self.place().url().is_some()
    }

    fn place(&self) -> Place<'_> {
        Place {
            names: &FIRST,
            store: self.store.as_deref(),
            endpoint_url: self.s3_endpoint_url.as_deref(),
            region: self.s3_region.as_deref(),
            bucket: self.s3_bucket.as_deref(),
            access_key_id: self.s3_access_key_id.as_deref(),
            path_style: self.s3_path_style == Some(true),
            allow_http: self.s3_allow_http == Some(true),
        }
    }
}

impl CopyStoreArgs {
    /// `None`: there is no second store.
    pub(super) fn settings(
        &self,
        spool_folder: PathBuf,
    ) -> Result<Option<StoreSettings>, ConfigError> {
        let place = Place {
            names: &SECOND,
            store: self.store.as_deref(),
            endpoint_url: self.s3_endpoint_url.as_deref(),
            region: self.s3_region.as_deref(),
            bucket: self.s3_bucket.as_deref(),
            access_key_id: self.s3_access_key_id.as_deref(),
            path_style: self.s3_path_style == Some(true),
            allow_http: self.s3_allow_http == Some(true),
        };
        let url = place.url();
        url.map(|url| place.settings(url, spool_folder)).transpose()
    }
}

impl<'a> Place<'a> {
    /// The store's URL; `s3:` where only a bucket's settings say that there is one, `None` where nothing does.
    fn url(&self) -> Option<&'a str> {
        let names_a_bucket = self.bucket.is_some()
            || self.endpoint_url.is_some()
            || self.region.is_some()
            || self.access_key_id.is_some()
            || [self.names.secret, self.names.secret_file]
                .into_iter()
                .any(is_set);
        self.store.or(names_a_bucket.then_some("s3:"))
    }

    fn settings(&self, url: &str, spool_folder: PathBuf) -> Result<StoreSettings, ConfigError> {
        let Names { store, bucket, .. } = self.names;
        let refused = |text: String| Err(ConfigError::Store(text));
        if let Some(folder) = url.strip_prefix("file:") {
            let folder = folder.strip_prefix("//").unwrap_or(folder);
            if folder.is_empty() {
                return refused(format!(
                    "{store} names no folder\nhint: file:/var/backups/pgseal"
                ));
            }
            return Ok(StoreSettings::Local {
                root: PathBuf::from(folder),
            });
        }
        let Some(named) = url
            .strip_prefix("s3:")
            .map(|rest| rest.trim_start_matches('/').trim_end_matches('/'))
        else {
            return refused(format!(
                "{store} is neither file:FOLDER nor s3://BUCKET\nhint: file:/var/backups/pgseal, or s3://my-bucket"
            ));
        };
        let chosen = match (named, self.bucket) {
            ("", None) => return refused(format!("no bucket is named\nhint: set {bucket}")),
            ("", Some(chosen)) => chosen,
            (named, None) => named,
            (named, Some(chosen)) if named == chosen => chosen,
            _ => {
                return refused(format!(
                    "{store} and {bucket} name different buckets\nhint: unset one of them"
                ));
            }
        };
        // As far as all stores agree; what a bucket's name may be beyond that, each knows itself.
        if !chosen
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        {
            return refused(format!(
                "{store} or {bucket} holds more than a bucket's name\nhint: s3://my-bucket; a folder in it is BACKUP_PREFIX"
            ));
        }
        self.s3(chosen.to_owned(), spool_folder)
            .map(StoreSettings::S3)
    }

    fn s3(&self, bucket: String, spool_folder: PathBuf) -> Result<S3Settings, ConfigError> {
        let Names {
            access_key_id,
            secret: secret_name,
            ..
        } = self.names;
        let secret_access_key = secret(secret_name, None)?;
        if self.access_key_id.is_some() != secret_access_key.is_some() {
            return Err(ConfigError::Store(format!(
                "half of the S3 credentials is missing\nhint: set both {access_key_id} and {secret_name}, or neither"
            )));
        }
        let plain_http = if self.allow_http {
            PlainHttp::Allowed
        } else {
            PlainHttp::Refused
        };
        Ok(S3Settings {
            endpoint_url: self.endpoint_url.map(str::to_owned),
            region: self.region.map(str::to_owned),
            bucket,
            access_key_id: self.access_key_id.map(str::to_owned),
            secret_access_key,
            path_style: self.path_style,
            plain_http,
            retry: RetryPolicy::default(),
            part_bytes: PART_BYTES_FIRST,
            spool_folder,
        })
    }
}
