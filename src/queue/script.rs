//! The scripts in `lua/`: each change of state is one of them, so that it happens as a whole or not at all. They get
//! ready-made texts, check and move; what is computed is computed in Rust.

use std::sync::LazyLock;

use redis::{ServerErrorKind, Value};

use super::connection::Queue;
use super::error::QueueError;
use super::rq::job_hash::JobHash;
use super::rq::keys::Keys;
use super::rq::names::{JobId, QueueName};
use super::value::BYTES_MAX;

/// What a field may have to be fetched: compressed, a payload that may be read is never longer than this.
const FIELD_BYTES_MAX: usize = BYTES_MAX + 4096;

/// A script, sent as a whole once and then called by its digest.
pub(super) type Script = LazyLock<redis::Script>;

macro_rules! script {
    ($($file:literal),+) => {
        LazyLock::new(|| redis::Script::new(concat!(include_str!("lua/prelude.lua"), $(include_str!(concat!("lua/", $file, ".lua"))),+)))
    };
}

pub(super) static ABANDON: Script = script!("settle", "abandon");
pub(super) static CHANGE: Script = script!("settle", "change");
pub(super) static CLAIM: Script = script!("claim");
pub(super) static CLEAN: Script = script!("clean");
pub(super) static ENQUEUE: Script = script!("enqueue");
pub(super) static FINISH: Script = script!("settle", "finish");
pub(super) static HEARTBEAT: Script = script!("heartbeat");
pub(super) static JOB: Script = script!("job");
pub(super) static SCHEDULE: Script = script!("schedule");
pub(super) static UNLOCK: Script = script!("unlock");
pub(super) static WORKER: Script = script!("worker");
pub(super) static WORKERS: Script = script!("workers");

/// Names and values for a script. A name may come more than once.
pub(super) struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    pub(super) fn new(keys: &Keys) -> Self {
        Self(Vec::new())
            .with("prefix", keys.prefix())
            .with("bytes_max", FIELD_BYTES_MAX.to_string())
    }

    pub(super) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.push(name.into());
        self.0.push(value.as_ref().to_vec());
        self
    }

    pub(super) fn with_each(
        self,
        name: &str,
        values: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Self {
        values
            .into_iter()
            .fold(self, |arguments, value| arguments.with(name, value))
    }

    /// Fields of a hash or of a stream's entry: name, value, and so on, in their order.
    pub(super) fn with_fields(
        self,
        name: &str,
        fields: impl IntoIterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>,
    ) -> Self {
        fields.into_iter().fold(self, |arguments, (field, value)| {
            arguments.with(name, field).with(name, value)
        })
    }

    fn call(&self, script: &redis::Script) -> redis::Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(0).arg(&self.0);
        call
    }
}

impl Queue {
    pub(super) fn arguments(&self) -> Arguments {
        Arguments::new(self.keys())
    }

    pub(super) async fn run(
        &self,
        operation: &'static str,
        script: &'static Script,
        arguments: &Arguments,
    ) -> Result<Answer, QueueError> {
        let mut invocation = script.prepare_invoke();
        invocation.arg(&arguments.0);
        let invocation = &invocation;
        let value = self
            .with_connection(operation, |mut connection| async move {
                invocation.invoke_async(&mut connection).await
            })
            .await?;
        Answer::parse(operation, value)
    }

    /// Calls one script many times on one way there and back.
    pub(super) async fn run_each(
        &self,
        operation: &'static str,
        script: &'static Script,
        calls: &[Arguments],
    ) -> Result<Vec<Result<Answer, QueueError>>, QueueError> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for arguments in calls {
            pipeline.add_command(arguments.call(script));
        }
        let pipeline = &pipeline;
        let values: Vec<Value> = self
            .with_connection(operation, |mut connection| async move {
                let values: Vec<Value> = pipeline.query_async(&mut connection).await?;
                if !values.iter().any(is_unknown_script) {
                    return Ok(values);
                }
                script.load_async(&mut connection).await?;
                pipeline.query_async(&mut connection).await
            })
            .await?;
        let error = |source| QueueError::of(operation, self.address().to_string(), source);
        let answers = values.into_iter().map(|value| {
            let value = value.extract_error().map_err(error)?;
            Answer::parse(operation, value)
        });
        Ok(answers.collect())
    }
}

fn is_unknown_script(value: &Value) -> bool {
    match value {
        Value::ServerError(error) => error.kind() == Some(ServerErrorKind::NoScript),
        _ => false,
    }
}

/// A name and a value of a hash, as they stand in Redis.
type Field = (Vec<u8>, Vec<u8>);

/// What a script answers: a word, and what belongs to it.
pub(super) struct Answer {
    operation: &'static str,
    pub(super) word: String,
    items: std::vec::IntoIter<Value>,
}

impl Answer {
    fn parse(operation: &'static str, value: Value) -> Result<Self, QueueError> {
        let Value::Array(items) = value else {
            return Err(QueueError::Protocol { operation });
        };
        let mut answer = Self {
            operation,
            word: String::new(),
            items: items.into_iter(),
        };
        answer.word = answer.text()?;
        Ok(answer)
    }

    /// Not what was asked for.
    pub(super) fn unexpected(&self) -> QueueError {
        QueueError::Protocol {
            operation: self.operation,
        }
    }

    pub(super) fn value(&mut self) -> Result<Value, QueueError> {
        self.items.next().ok_or(QueueError::Protocol {
            operation: self.operation,
        })
    }

    /// Text for people or for comparisons: what is no UTF-8 in it is replaced.
    pub(super) fn text(&mut self) -> Result<String, QueueError> {
        match self.value()? {
            Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Value::SimpleString(text) => Ok(text),
            Value::Int(number) => Ok(number.to_string()),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn count(&mut self) -> Result<u64, QueueError> {
        self.text()?.parse().map_err(|_| self.unexpected())
    }

    pub(super) fn array(&mut self) -> Result<Vec<Value>, QueueError> {
        match self.value()? {
            Value::Array(items) => Ok(items),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn fields(&mut self) -> Result<Vec<Field>, QueueError> {
        let mut bytes = self.array()?.into_iter().map(|value| match value {
            Value::BulkString(bytes) => bytes,
            _ => Vec::new(),
        });
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (bytes.next(), bytes.next()) {
            fields.push((name, value));
        }
        Ok(fields)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.as_slice().is_empty()
    }

    /// All that is left, as ids; what is none is left out.
    pub(super) fn job_ids(&mut self) -> Vec<JobId> {
        let mut ids = Vec::new();
        while !self.is_empty() {
            ids.extend(self.text().ok().and_then(|id| JobId::parse(&id).ok()));
        }
        ids
    }

    /// The parts of an answer `job`.
    pub(super) fn job(&mut self) -> Result<(JobId, Option<QueueName>, JobHash), QueueError> {
        let id = JobId::parse(&self.text()?).map_err(|_| self.unexpected())?;
        let queue = QueueName::parse(&self.text()?).ok();
        let mut fields = self.fields()?;
        let long: Vec<Value> = self.array()?;
        let is_long = |name: &str| {
            long.iter()
                .any(|value| matches!(value, Value::BulkString(bytes) if bytes == name.as_bytes()))
        };
        if is_long("data") {
            fields.push((b"data".to_vec(), Vec::new()));
        }
        let mut hash = JobHash::decode(fields).ok_or_else(|| self.unexpected())?;
        let names = ["data", "meta", "description", "exc_info", "dependency_ids"];
        hash.unreadable
            .extend(names.into_iter().filter(|name| is_long(name)));
        Ok((id, queue, hash))
    }
}
