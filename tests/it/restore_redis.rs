//! Redis goes away while a worker restores, at each step: the restore goes on, its row tells the truth, and once Redis is
//! back the job is settled and the next one is taken.

use rustix::process::Signal;

use crate::generated::dice::Dice;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::scale;
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::swap::Kept;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Absence {
    /// It is killed, and what was queued is forgotten.
    Killed,
    /// It is there, and does not answer.
    Frozen,
}

const STEPS: [(&str, &[&str]); 2] = [
    (
        "swap",
        &[
            "look at the target",
            "fetch",
            "verify",
            "create the database",
            "load",
            "compare the rows",
            "analyze",
            "swap the databases",
        ],
    ),
    (
        "in-place",
        &[
            "look at the target",
            "fetch",
            "verify",
            "load",
            "compare the rows",
            "analyze",
        ],
    ),
];

/// All of the table in the soak; one cell of each mode in the quick tests.
fn cells() -> Vec<(&'static str, &'static str, Absence)> {
    let mut all = Vec::new();
    for (mode, steps) in STEPS {
        let mut of_mode = Vec::new();
        for step in steps {
            of_mode
                .extend([Absence::Killed, Absence::Frozen].map(|absence| (mode, *step, absence)));
        }
        if scale(0, 1) == 0 {
            let seed = u64::from(std::process::id());
            let chosen = Dice::new(seed).up_to(of_mode.len() - 1);
            of_mode = vec![of_mode[chosen]];
        }
        all.extend(of_mode);
    }
    all
}

/// Row 45 for restores.
#[test]
fn a_restore_goes_on_without_redis_at_every_step() {
    let service = Service::start();
    let server = Postgres::shared();
    let name = &service.database.name;
    let kept = Kept(server, name);
    let (backup, _) = service.enqueue_backup();
    service.burst();
    let whole = Content::of(server, name);
    for (mode, step, absence) in cells() {
        let said = format!("{mode}, {step}, {absence:?}");
        service.database.psql("UPDATE customers SET name = 'gone'");
        let asked = service.pgseal.json(&[
            "enqueue",
            "restore",
            &backup.to_string(),
            "--mode",
            mode,
            "--no-safety-backup",
            "--confirm",
            name,
        ]);
        let (id, job) = (
            asked["restore_id"].as_i64().unwrap(),
            asked["job_id"].as_str().unwrap(),
        );
        let mut worker = service.pgseal.start(&["worker", "-vv", "--name", "alone"]);
        let stage = format!("stage=\"{step}\"");
        assert!(worker.until_said(&stage), "{said}: {}", worker.wait());
        match absence {
            Absence::Killed => service.redis.kill(),
            Absence::Frozen => service.redis.signal(Signal::STOP),
        }
        until(&format!("{said}: the restore to end"), || {
            ["completed", "failed"].contains(&service.restore(id, "status").as_str())
        });
        assert_eq!(
            (
                service.restore(id, "status").as_str(),
                service.restore(id, "error").as_str()
            ),
            ("completed", ""),
            "{said}"
        );
        assert_same(&whole, &Content::of(server, name));
        match absence {
            Absence::Killed => service.redis.run(),
            Absence::Frozen => {
                service.redis.signal(Signal::CONT);
                service.until_job(job, "finished");
            }
        }
        // What Redis forgot is not done once more, and the next job is taken.
        let (next, next_job) = service.enqueue_backup();
        service.until_backup(next, "completed");
        service.until_job(&next_job, "finished");
        assert_eq!(service.restore(id, "attempt"), "1", "{said}");
        assert_same(&whole, &Content::of(server, name));
        Service::end(worker);
        for left in kept.names() {
            service.pgseal.ok(&["kept", "drop", &left]);
        }
    }
}
