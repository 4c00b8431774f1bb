//! Where backups are and how they are named.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::ConfigError;
use super::environment::{is_set, secret};
use crate::store::{PART_BYTES_FIRST, PlainHttp, RetryPolicy, S3Settings, StoreSettings};

/// Where backups go when nothing is said.
const STORE_DEFAULT: &str = "file:./pgseal-backups";

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

impl StoreArgs {
    pub(super) fn settings(&self, spool_folder: PathBuf) -> Result<StoreSettings, ConfigError> {
        let bucket = self.s3_bucket.as_deref();
        let url = match (self.store.as_deref(), bucket) {
            (Some(url), _) => url,
            (None, Some(_)) => "s3:",
            (None, None) if self.has_s3_setting() => "s3:",
            (None, None) => STORE_DEFAULT,
        };
        if let Some(folder) = url.strip_prefix("file:") {
            let folder = folder.strip_prefix("//").unwrap_or(folder);
            if folder.is_empty() {
                return Err(ConfigError::Store(
                    "BACKUP_STORE names no folder\nhint: file:/var/backups/pgseal".to_owned(),
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
            let hint = "BACKUP_STORE is neither file:FOLDER nor s3://BUCKET";
            return Err(ConfigError::Store(format!(
                "{hint}\nhint: file:/var/backups/pgseal, or s3://my-bucket"
            )));
        };
        let bucket = match (named, bucket) {
            ("", None) => {
                return Err(ConfigError::Store(
                    "no bucket is named\nhint: set BACKUP_S3_BUCKET".to_owned(),
                ));
            }
            ("", Some(bucket)) => bucket,
            (named, None) => named,
            (named, Some(bucket)) if named == bucket => bucket,
            _ => {
                return Err(ConfigError::Store(
                    "BACKUP_STORE and BACKUP_S3_BUCKET name different buckets\nhint: unset one of them".to_owned(),
                ));
            }
        };
        // As far as all stores agree; what a bucket's name may be beyond that, each knows itself.
        if !bucket
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        {
            return Err(ConfigError::Store(
                "BACKUP_STORE or BACKUP_S3_BUCKET holds more than a bucket's name\nhint: s3://my-bucket; a folder in it is BACKUP_PREFIX".to_owned(),
            ));
        }
        self.s3(bucket.to_owned(), spool_folder)
            .map(StoreSettings::S3)
    }

    /// Whether anything says where backups go.
    pub(super) fn is_named(&self) -> bool {
        self.store.is_some() || self.s3_bucket.is_some() || self.has_s3_setting()
    }

    /// Whether somebody meant a bucket: backups must not go to this machine's own disk because its name is missing.
    fn has_s3_setting(&self) -> bool {
        const SECRET: [&str; 2] = [
            "BACKUP_S3_SECRET_ACCESS_KEY",
            "BACKUP_S3_SECRET_ACCESS_KEY_FILE",
        ];
        let typed = [
            &self.s3_endpoint_url,
            &self.s3_region,
            &self.s3_access_key_id,
        ];
        typed.iter().any(|setting| setting.is_some()) || SECRET.into_iter().any(is_set)
    }

    fn s3(&self, bucket: String, spool_folder: PathBuf) -> Result<S3Settings, ConfigError> {
        let secret_access_key = secret("BACKUP_S3_SECRET_ACCESS_KEY", None)?;
        if self.s3_access_key_id.is_some() != secret_access_key.is_some() {
            let hint =
                "set both BACKUP_S3_ACCESS_KEY_ID and BACKUP_S3_SECRET_ACCESS_KEY, or neither";
            return Err(ConfigError::Store(format!(
                "half of the S3 credentials is missing\nhint: {hint}"
            )));
        }
        let plain_http = if self.s3_allow_http == Some(true) {
            PlainHttp::Allowed
        } else {
            PlainHttp::Refused
        };
        Ok(S3Settings {
            endpoint_url: self.s3_endpoint_url.clone(),
            region: self.s3_region.clone(),
            bucket,
            access_key_id: self.s3_access_key_id.clone(),
            secret_access_key,
            path_style: self.s3_path_style == Some(true),
            plain_http,
            retry: RetryPolicy::default(),
            part_bytes: PART_BYTES_FIRST,
            spool_folder,
        })
    }
}
