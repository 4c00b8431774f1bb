//! What is printed: one shape for a backup, as text and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use time::OffsetDateTime;

use super::exit::OutputClosed;
pub(super) use crate::model::counted::counted;
use crate::model::ids::Uid;
pub(super) use crate::model::moment::moment;
use crate::model::proof::Proof;
use crate::model::summary::Summary;
use crate::progress::{Progress, StageTime};
use crate::vault::Listed;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Text,
    Json,
}

impl Output {
    /// Prints a result: as JSON, or as the text that is made only then.
    pub(super) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let printed = match self {
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Text => text(),
        };
        match writeln!(io::stdout().lock(), "{printed}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            written => Ok(written?),
        }
    }
}

/// One backup, or something that could be one, as JSON. What is not known is null.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) name: String,
    object_key: String,
    state: &'static str,
    pub(super) reason: Option<String>,
    /// Why it looks wrong, although it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suspicious: Option<String>,
    uid: Option<String>,
    kind: Option<&'static str>,
    target: Option<String>,
    database: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
    plain_bytes: Option<u64>,
    plain_sha256: Option<String>,
    sealed_bytes: Option<u64>,
    sealed_sha256: Option<String>,
    compression: Option<String>,
    table_count: Option<usize>,
    row_count: Option<u64>,
    large_objects: Option<u64>,
    server_version: Option<String>,
    pg_dump_version: Option<String>,
    /// Patterns of tables whose rows were left out.
    excluded_table_data: Vec<String>,
    labels: BTreeMap<String, String>,
    warnings: Vec<String>,
    proof: Option<Proof>,
    /// Where there is a second store: `confirmed`, `copied` (it is there, nobody has read it now), `none`, `failed`, or
    /// `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<&'static str>,
}

impl Record {
    pub(super) fn of(listed: &Listed) -> Self {
        let record = match &listed.summary {
            Some(summary) => Self::of_summary(summary),
            None => Self {
                finished_at: listed.stored_at,
                sealed_bytes: listed.bytes,
                ..Self::bare(&listed.key)
            },
        };
        Self {
            state: listed.state,
            reason: listed.reason.clone(),
            proof: listed.proof.clone(),
            ..record
        }
    }

    /// Says so where it is among the strange ones.
    pub(super) fn suspicious(mut self, strange: &BTreeMap<Uid, String>) -> Self {
        let uid = self.uid.as_deref().and_then(Uid::parse);
        if let Some(reason) = uid.and_then(|uid| strange.get(&uid)) {
            self.suspicious = Some(reason.clone());
        }
        self
    }

    pub(super) fn of_summary(summary: &Summary) -> Self {
        Self {
            uid: Some(summary.uid.to_string()),
            kind: Some(summary.kind.as_str()),
            target: Some(summary.target.clone()),
            database: Some(summary.database.clone()),
            started_at: Some(summary.started_at),
            finished_at: Some(summary.finished_at),
            plain_bytes: Some(summary.plain_bytes),
            plain_sha256: Some(summary.plain_sha256.to_string()),
            sealed_bytes: Some(summary.sealed_bytes),
            sealed_sha256: Some(summary.sealed_sha256.to_string()),
            compression: Some(summary.compression.clone()),
            table_count: Some(summary.table_count),
            row_count: summary.row_count,
            large_objects: Some(summary.large_objects),
            server_version: Some(summary.server_version.clone()),
            pg_dump_version: Some(summary.pg_dump_version.clone()),
            excluded_table_data: summary.excluded_table_data.clone(),
            labels: summary.labels.clone(),
            warnings: summary.warnings.clone(),
            ..Self::bare(&summary.object_key)
        }
    }

    fn bare(key: &str) -> Self {
        let file = key.rsplit('/').next().unwrap_or(key);
        let name = file.strip_suffix(".gpg").unwrap_or(file);
        Self {
            name: name.strip_suffix(".dump").unwrap_or(name).to_owned(),
            object_key: key.to_owned(),
            state: "complete",
            reason: None,
            suspicious: None,
            uid: None,
            kind: None,
            target: None,
            database: None,
            started_at: None,
            finished_at: None,
            plain_bytes: None,
            plain_sha256: None,
            sealed_bytes: None,
            sealed_sha256: None,
            compression: None,
            table_count: None,
            row_count: None,
            large_objects: None,
            server_version: None,
            pg_dump_version: None,
            excluded_table_data: Vec::new(),
            labels: BTreeMap::new(),
            warnings: Vec::new(),
            proof: None,
            copy: None,
        }
    }

    /// The target that it is of, as its manifest says.
    pub(super) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// What to say of it where it should have a second copy, and nobody sees one.
    pub(super) fn copy_is_missing(&self) -> Option<&'static str> {
        match self.copy? {
            "none" if self.state == "complete" => Some("no copy in the second store"),
            _ => None,
        }
    }

    /// The tables that are in it without their rows, as patterns.
    pub(super) fn rows_left_out(&self) -> Option<String> {
        (!self.excluded_table_data.is_empty()).then(|| self.excluded_table_data.join(", "))
    }

    /// With what is known of its second copy.
    pub(super) fn copied(self, copy: Option<&'static str>) -> Self {
        Self { copy, ..self }
    }

    /// The facts, for text.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        facts.add("state", Some(self.state));
        facts.add("reason", self.reason.as_deref());
        facts.add("kind", self.kind);
        facts.add("database", self.database.as_deref());
        facts.add(
            "server",
            self.server_version
                .as_ref()
                .map(|version| format!("PostgreSQL {version}")),
        );
        facts.add("dumped by", self.pg_dump_version.as_deref());
        facts.add("started", self.started_at.map(moment));
        facts.add(
            if self.started_at.is_some() {
                "finished"
            } else {
                "stored"
            },
            self.finished_at.map(moment),
        );
        facts.add("content", self.content());
        facts.add("without the rows of", self.rows_left_out());
        facts.add("dump", self.plain_bytes.map(bytes));
        facts.add(
            "stored",
            self.sealed_bytes.map(|sealed| self.stored(sealed)),
        );
        facts.add("object", Some(&self.object_key));
        facts.add("proof", self.proof.as_ref().map(proof));
        facts.add("second copy", self.copy);
        facts.add("dump SHA-256", self.plain_sha256.as_deref());
        facts.add("object SHA-256", self.sealed_sha256.as_deref());
        for (name, value) in &self.labels {
            facts.add("label", Some(format!("{name}={value}")));
        }
        for warning in &self.warnings {
            facts.add("warning", Some(warning));
        }
        facts
    }

    fn stored(&self, sealed: u64) -> String {
        match &self.compression {
            Some(compression) => format!("{} ({compression})", bytes(sealed)),
            None => bytes(sealed),
        }
    }

    fn content(&self) -> Option<String> {
        let mut content = counted(self.table_count? as u64, "table");
        content += ", ";
        content += &self.row_count.map_or_else(
            || "rows not counted".to_owned(),
            |rows| counted(rows, "row"),
        );
        if let Some(objects) = self.large_objects.filter(|objects| *objects > 0) {
            content += ", ";
            content += &counted(objects, "large object");
        }
        Some(content)
    }

    /// The cells of one line of `pgseal list`.
    pub(super) fn cells(&self, now: OffsetDateTime) -> [String; 8] {
        let dash = || "-".to_owned();
        [
            self.name.clone(),
            self.suspicious
                .as_ref()
                .map_or(self.state, |_| "SUSPICIOUS")
                .to_owned(),
            self.started_at
                .or(self.finished_at)
                .map_or_else(dash, moment),
            self.database.clone().unwrap_or_else(dash),
            self.table_count
                .map_or_else(dash, |tables| count(tables as u64)),
            self.row_count.map_or_else(dash, count),
            self.sealed_bytes.map_or_else(dash, bytes),
            self.proof.as_ref().map_or_else(dash, |proof| {
                format!("{} {}", proof.verdict.as_str(), age(now - proof.at))
            }),
        ]
    }
}

/// Lines of `name  value`, the values one below the other.
#[derive(Default)]
pub(super) struct Facts(Vec<(String, String)>);

impl Facts {
    pub(super) fn add(&mut self, name: &str, value: Option<impl ToString>) {
        self.0
            .extend(value.map(|value| (name.to_owned(), value.to_string())));
    }

    pub(super) fn text(&self) -> String {
        let width = self
            .0
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let line = |(name, value): &(String, String)| format!("  {name:width$}  {value}");
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A table without lines, the columns from `numbers_from` on aligned to the right.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    numbers_from: usize,
) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(header)
        .add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= numbers_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// Bytes as people read them.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A number with its thousands apart.
pub(super) fn count(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// How long a stage took, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct StageSeconds {
    stage: String,
    seconds: f64,
}

/// The stages so far. One that came more than once, as in a restore that makes a safety backup, stands there as often.
pub(super) fn stage_seconds(progress: &Progress) -> Vec<StageSeconds> {
    let stages = progress.stages().into_iter();
    stages
        .map(|StageTime { stage, took }| StageSeconds {
            stage,
            seconds: took.as_secs_f64(),
        })
        .collect()
}

/// The stages that took long enough to be worth a word, as text.
pub(super) fn took(progress: &Progress) -> String {
    const WORTH_A_WORD: Duration = Duration::from_millis(100);
    let stages = progress.stages();
    let all: Duration = stages.iter().map(|time| time.took).sum();
    let long = stages.iter().filter(|time| time.took >= WORTH_A_WORD);
    let words: Vec<String> = long
        .map(|time| format!("{} {:.1} s", time.stage, time.took.as_secs_f64()))
        .collect();
    if words.is_empty() {
        return format!("{:.1} s", all.as_secs_f64());
    }
    format!("{:.1} s: {}", all.as_secs_f64(), words.join(", "))
}

fn proof(proof: &Proof) -> String {
    let mut text = format!(
        "{}, {}, after {:.1} s",
        proof.verdict.as_str(),
        moment(proof.at),
        proof.seconds
    );
    if let Some(reason) = &proof.reason {
        text += &format!(": {reason}");
    }
    text
}

/// How long ago something was, as a person says it: minutes, hours, then days.
fn age(age: time::Duration) -> String {
    match (age.whole_days(), age.whole_hours(), age.whole_minutes()) {
        (days, ..) if days > 0 => format!("{days} d ago"),
        (_, hours, _) if hours > 0 => format!("{hours} h ago"),
        (.., minutes) => format!("{} min ago", minutes.max(0)),
    }
}
