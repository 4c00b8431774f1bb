//! How a run of a job ended: an entry of the stream `rq:results:<job>`.

use time::OffsetDateTime;

use super::fields::Fields;
use super::moment;
use super::names::{ExecutionId, WorkerName};

/// About so many entries a job keeps; rq trims the stream with `MAXLEN ~ 10`.
pub const ENTRIES_MAX: u32 = 10;

/// Why an entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeKind {
    /// It returned.
    Success,
    /// It failed, was stopped, ran out of time, or was given up.
    Failed,
    /// rq knows the number and writes [`Self::Failed`] instead.
    Stopped,
    /// It asked to be tried again.
    Retried,
    /// It asked once too often; version 2.
    MaxRetriesExceeded,
}

impl OutcomeKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Success,
        Self::Failed,
        Self::Stopped,
        Self::Retried,
        Self::MaxRetriesExceeded,
    ];

    /// The number in the entry.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Success => 1,
            Self::Failed => 2,
            Self::Stopped => 3,
            Self::Retried => 4,
            Self::MaxRetriesExceeded => 5,
        }
    }

    /// Reads the number in the entry.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// Which run it was; version 1 does not read this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// When it began.
    pub started_at: OffsetDateTime,
    /// When it ended.
    pub ended_at: OffsetDateTime,
}

/// An entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it was made.
    pub kind: OutcomeKind,
    /// What the function returned, for [`crate::queue::payload::decode_return_value`]; `None` for `None`.
    pub return_value: Option<String>,
    /// Why it failed, for [`crate::queue::payload::decode_exc_string`].
    pub exc_string: Option<String>,
    /// Who ran it; version 1 does not write this.
    pub worker_name: Option<WorkerName>,
    /// Which run it was.
    pub execution: Option<Execution>,
}

impl Outcome {
    /// The entry's fields.
    #[must_use]
    pub fn encode(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("type", self.kind.number().to_string())];
        let worker_name = self.worker_name.as_ref().map(ToString::to_string);
        for (name, text) in [
            ("worker_name", worker_name),
            ("return_value", self.return_value.clone()),
            ("exc_string", self.exc_string.clone()),
        ] {
            fields.extend(text.map(|text| (name, text)));
        }
        if let Some(execution) = &self.execution {
            fields.push(("execution_id", execution.id.to_string()));
            fields.push((
                "execution_started_at",
                moment::seconds(execution.started_at),
            ));
            fields.push(("execution_ended_at", moment::seconds(execution.ended_at)));
        }
        fields
    }

    /// Reads an entry, of which any field but the kind may be broken. `None`: of no kind that is known.
    #[must_use]
    pub fn decode<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Option<Self> {
        let mut fields = Fields::new(fields);
        let kind = fields.number("type").and_then(OutcomeKind::from_number)?;
        let id = fields.read("execution_id", |id| ExecutionId::parse(id).ok());
        let started_at = fields.read("execution_started_at", moment::parse_seconds);
        let ended_at = fields.read("execution_ended_at", moment::parse_seconds);
        let execution = id.zip(started_at.zip(ended_at));
        Some(Self {
            kind,
            return_value: fields.text("return_value"),
            exc_string: fields.text("exc_string"),
            worker_name: fields.read("worker_name", |name| WorkerName::parse(name).ok()),
            execution: execution.map(|(id, (started_at, ended_at))| Execution {
                id,
                started_at,
                ended_at,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recorded success of rq 2.12.0.
    const RECORDED: [(&str, &str); 6] = [
        ("type", "1"),
        ("worker_name", "w1"),
        ("return_value", "gAVLKi4="),
        ("execution_id", "a4e90d1171e844ffbc771aef2c6278f5"),
        ("execution_started_at", "1795472527.475878"),
        ("execution_ended_at", "1795472527.501444"),
    ];

    #[test]
    fn an_entry_is_as_recorded() {
        let outcome = Outcome::decode(RECORDED).unwrap();
        assert_eq!(outcome.kind, OutcomeKind::Success);
        assert_eq!(outcome.return_value.as_deref(), Some("gAVLKi4="));
        let written = outcome.encode();
        assert_eq!(
            written,
            RECORDED.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn version_1_writes_less_and_that_is_enough() {
        let fields = [("type", "2"), ("exc_string", "eJzzyk9S")];
        let outcome = Outcome::decode(fields).unwrap();
        assert_eq!(outcome.kind, OutcomeKind::Failed);
        assert_eq!((&outcome.worker_name, &outcome.execution), (&None, &None));
        assert_eq!(
            outcome.encode(),
            fields.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn broken_fields_are_unset_and_no_kind_is_no_entry() {
        let mut fields = RECORDED;
        fields[1].1 = "a\nb";
        fields[3].1 = "short";
        let outcome = Outcome::decode(fields).unwrap();
        assert_eq!((outcome.worker_name, outcome.execution), (None, None));
        for bad in ["", "0", "6", "one"] {
            assert_eq!(Outcome::decode([("type", bad)]), None, "{bad}");
        }
        for kind in OutcomeKind::ALL {
            assert_eq!(OutcomeKind::from_number(kind.number()), Some(kind));
        }
    }
}
