//! What a worker can be asked to do: each task is a function's name and at most one id; the catalog holds the facts.

use super::payload::{Call, Serializer};
use super::value::Value;
use crate::model::ids::{BackupId, RestoreId};

/// As much of a function's name is shown as fits a line; it comes from whoever enqueued.
const SHOWN_CHARS_MAX: usize = 100;

/// One task of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Makes this backup, or, without an id, a manual one of the default target.
    Backup(Option<BackupId>),
    /// Carries this restore out.
    Restore(RestoreId),
    /// Proves that this backup can be read.
    Verify(BackupId),
    /// Restores this backup, or the latest one, into a database of its own.
    Drill(Option<BackupId>),
    /// Copies this backup into the second store.
    Copy(BackupId),
    /// Deletes what the retention policy no longer keeps.
    Prune,
}

/// How the tasks are called in Redis. The defaults are what the Python service was deployed with, so that its callers
/// go on working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Functions {
    /// Takes `backup_id`, or nothing.
    pub backup: String,
    /// Takes `restore_id`.
    pub restore: String,
    /// Takes `backup_id`.
    pub verify: String,
    /// Takes `backup_id`, or nothing.
    pub drill: String,
    /// Takes `backup_id`.
    pub copy: String,
    /// Takes nothing.
    pub prune: String,
}

impl Default for Functions {
    fn default() -> Self {
        let named = |task: &str| format!("app.workers.{task}_jobs.run_{task}");
        Self {
            backup: named("backup"),
            restore: named("restore"),
            verify: named("verify"),
            drill: named("drill"),
            copy: named("copy"),
            prune: named("prune"),
        }
    }
}

/// Why a call is no task. Only the function is named: an argument may be anything.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JobError {
    /// Somebody else's function, or a slip.
    #[error(
        "pgseal has no function {0}\nhint: enqueue other functions on a queue of their own, which Python workers serve"
    )]
    UnknownFunction(String),
    /// Other arguments than it takes.
    #[error("wrong arguments for {function}\nhint: it takes {takes}")]
    Arguments {
        /// The function that was called.
        function: String,
        /// What it takes.
        takes: &'static str,
    },
}

const BACKUP_ID: &str = "backup_id";
const RESTORE_ID: &str = "restore_id";
const TAKES_BACKUP_ID: &str = "one whole number from 1 on, backup_id";
const TAKES_RESTORE_ID: &str = "one whole number from 1 on, restore_id";
const MAY_TAKE_BACKUP_ID: &str = "one whole number from 1 on, backup_id, or nothing";
const TAKES_NOTHING: &str = "nothing";

impl Functions {
    /// The task that a call means.
    ///
    /// # Errors
    /// No such function, or not its arguments.
    pub fn job(&self, call: &Call) -> Result<Job, JobError> {
        let function = call.function.as_str();
        let (job, takes) = if function == self.backup {
            let job = argument(call, BACKUP_ID).and_then(|id| id.optional(BackupId::new));
            (job.map(Job::Backup), MAY_TAKE_BACKUP_ID)
        } else if function == self.restore {
            let job = argument(call, RESTORE_ID).and_then(|id| id.required(RestoreId::new));
            (job.map(Job::Restore), TAKES_RESTORE_ID)
        } else if function == self.verify {
            let job = argument(call, BACKUP_ID).and_then(|id| id.required(BackupId::new));
            (job.map(Job::Verify), TAKES_BACKUP_ID)
        } else if function == self.drill {
            let job = argument(call, BACKUP_ID).and_then(|id| id.optional(BackupId::new));
            (job.map(Job::Drill), MAY_TAKE_BACKUP_ID)
        } else if function == self.copy {
            let job = argument(call, BACKUP_ID).and_then(|id| id.required(BackupId::new));
            (job.map(Job::Copy), TAKES_BACKUP_ID)
        } else if function == self.prune {
            let nothing = call.args.is_empty() && call.kwargs.is_empty();
            (nothing.then_some(Job::Prune), TAKES_NOTHING)
        } else {
            return Err(JobError::UnknownFunction(shown(function)));
        };
        job.ok_or_else(|| JobError::Arguments {
            function: shown(function),
            takes,
        })
    }

    /// The call that means a task, with its id by position, as Python's callers pass it.
    #[must_use]
    pub fn call(&self, job: Job, serializer: Serializer) -> Call {
        let (function, id) = match job {
            Job::Backup(id) => (&self.backup, id.map(BackupId::get)),
            Job::Restore(id) => (&self.restore, Some(id.get())),
            Job::Verify(id) => (&self.verify, Some(id.get())),
            Job::Drill(id) => (&self.drill, id.map(BackupId::get)),
            Job::Copy(id) => (&self.copy, Some(id.get())),
            Job::Prune => (&self.prune, None),
        };
        Call {
            function: function.clone(),
            args: id.map(Value::Int).into_iter().collect(),
            kwargs: Vec::new(),
            serializer,
        }
    }
}

/// The one argument of a call: a number, or `None`, which is what a function without one gets.
enum Argument {
    Id(i64),
    Nothing,
}

/// The argument by position or by its name; `None` where it is another value, or there are others.
fn argument(call: &Call, keyword: &str) -> Option<Argument> {
    let value = match (call.args.as_slice(), call.kwargs.as_slice()) {
        ([], []) => &Value::None,
        ([value], []) => value,
        ([], [(name, value)]) if name == keyword => value,
        _ => return None,
    };
    match value {
        Value::Int(id) => Some(Argument::Id(*id)),
        Value::None => Some(Argument::Nothing),
        // Python's True is 1 as well, but no id.
        _ => None,
    }
}

impl Argument {
    fn required<T>(self, parse: impl Fn(i64) -> Option<T>) -> Option<T> {
        match self {
            Self::Id(id) => parse(id),
            Self::Nothing => None,
        }
    }

    fn optional<T>(self, parse: impl Fn(i64) -> Option<T>) -> Option<Option<T>> {
        match self {
            Self::Id(id) => parse(id).map(Some),
            Self::Nothing => Some(None),
        }
    }
}

/// A name from outside on one short line.
fn shown(name: &str) -> String {
    let mut shown: String = name
        .chars()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(function: &str, args: &[Value], kwargs: &[(&str, Value)]) -> Call {
        Call {
            function: function.to_owned(),
            args: args.to_vec(),
            kwargs: kwargs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            serializer: Serializer::Pickle,
        }
    }

    const BACKUP: &str = "app.workers.backup_jobs.run_backup";
    const RESTORE: &str = "app.workers.restore_jobs.run_restore";

    #[test]
    fn calls_by_position_and_by_name_mean_the_same() {
        let functions = Functions::default();
        let (backup, restore) = (BackupId::new(42).unwrap(), RestoreId::new(7).unwrap());
        for (call, job) in [
            (
                call(BACKUP, &[Value::Int(42)], &[]),
                Job::Backup(Some(backup)),
            ),
            (
                call(BACKUP, &[], &[("backup_id", Value::Int(42))]),
                Job::Backup(Some(backup)),
            ),
            (call(BACKUP, &[], &[]), Job::Backup(None)),
            (call(BACKUP, &[Value::None], &[]), Job::Backup(None)),
            (call(RESTORE, &[Value::Int(7)], &[]), Job::Restore(restore)),
            (
                call(RESTORE, &[], &[("restore_id", Value::Int(7))]),
                Job::Restore(restore),
            ),
            (
                call("app.workers.drill_jobs.run_drill", &[], &[]),
                Job::Drill(None),
            ),
        ] {
            assert_eq!(functions.job(&call), Ok(job), "{call:?}");
        }
    }

    #[test]
    fn every_task_can_be_called() {
        let functions = Functions::default();
        let id = BackupId::new(i64::MAX).unwrap();
        for job in [
            Job::Backup(None),
            Job::Backup(Some(id)),
            Job::Restore(RestoreId::new(1).unwrap()),
            Job::Verify(id),
            Job::Drill(None),
            Job::Drill(Some(id)),
            Job::Copy(id),
            Job::Prune,
        ] {
            for serializer in [Serializer::Pickle, Serializer::Json] {
                let data = functions.call(job, serializer).encode().unwrap();
                let call = Call::decode(&data).unwrap();
                assert_eq!(call.serializer, serializer);
                assert_eq!(functions.job(&call), Ok(job));
            }
        }
    }

    #[test]
    fn names_are_settings() {
        let functions = Functions {
            backup: "tasks.dump".into(),
            ..Functions::default()
        };
        assert_eq!(
            functions.job(&call("tasks.dump", &[], &[])),
            Ok(Job::Backup(None))
        );
        assert!(functions.job(&call(BACKUP, &[], &[])).is_err());
    }

    #[test]
    fn wrong_arguments_name_the_function_and_nothing_of_the_call() {
        let canary = Value::Text("canary".into());
        for wrong in [
            call(BACKUP, std::slice::from_ref(&canary), &[]),
            call(BACKUP, &[Value::Int(1), Value::Int(2)], &[]),
            call(BACKUP, &[Value::Int(1)], &[("backup_id", Value::Int(1))]),
            call(BACKUP, &[], &[("canary", Value::Int(1))]),
            call(BACKUP, &[Value::Int(0)], &[]),
            call(BACKUP, &[Value::Int(-1)], &[]),
            call(BACKUP, &[Value::Bool(true)], &[]),
            call(BACKUP, &[Value::Float(42.0)], &[]),
            call(RESTORE, &[], &[]),
            call(RESTORE, &[Value::None], &[]),
            call(RESTORE, &[], &[("backup_id", Value::Int(1))]),
            call("app.workers.prune_jobs.run_prune", &[canary], &[]),
        ] {
            let error = Functions::default().job(&wrong).unwrap_err();
            assert!(matches!(error, JobError::Arguments { .. }), "{wrong:?}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(&wrong.function), "{shown}");
            assert!(!shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn an_unknown_function_is_named_on_one_short_line() {
        let named = |function: &str| {
            let error = Functions::default().job(&call(function, &[], &[]));
            error.unwrap_err().to_string()
        };
        assert!(named("os.system").starts_with("pgseal has no function os.system\nhint: "));
        let hostile = named(&format!("a\nb\x1b{}", "c".repeat(1 << 20)));
        assert!(hostile.starts_with("pgseal has no function a\\nb\\u{1b}ccc"));
        assert!(hostile.len() < 300, "{}", hostile.len());
    }
}
