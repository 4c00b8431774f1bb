//! Any bytes as what a producer wrote: an error or a value; what is accepted is written and read again without a change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::queue::payload::Call;
use pgseal::queue::pickle;
use pgseal::queue::rq::{command::WorkerCommand, job_hash::JobHash};

fuzz_target!(|bytes: &[u8]| {
    drop(WorkerCommand::parse(bytes));
    drop(JobHash::decode([
        ("data", bytes),
        ("status", bytes),
        ("exc_info", bytes),
    ]));
    // Bytes are compared, because a float that is no number differs from itself.
    if let Ok(value) = pickle::decode(bytes) {
        let written = pickle::encode(&value);
        let again = pickle::decode(&written).expect("what was written is read");
        assert_eq!(pickle::encode(&again), written);
    }
    if let Ok(call) = Call::decode(bytes) {
        let written = call.encode().expect("what was read is written");
        let again = Call::decode(&written).expect("what was written is read");
        assert_eq!(again.encode().expect("as before"), written);
    }
});
