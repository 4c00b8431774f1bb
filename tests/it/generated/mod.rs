//! Random schemas with random data, through backup, verification and restore. Everything comes from a seed, which a failure
//! names: `PGSEAL_SEED=… cargo test generated` does the same again.

pub mod dice;
mod schema;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dice::Dice;
use schema::Has;

use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{MAJORS, Postgres, bin_dir_of};
use crate::harness::{run, scale};

/// So many schemas stand in one database: each backup costs a second, each schema a tenth of one.
const SCHEMAS_IN_DATABASE: usize = 4;

/// 8 schemas in the quick tier, on 15 and on 18; 200 in the other, on every version.
#[test]
fn generated_databases_come_back_to_the_last_bit() {
    if let Some(seed) = std::env::var_os("PGSEAL_SEED") {
        goes_round(seed.to_str().unwrap().parse().unwrap());
        return;
    }
    for seed in 0..scale(2, 50) as u64 {
        let went = catch_unwind(AssertUnwindSafe(|| goes_round(seed)));
        if let Err(panic) = went {
            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("PGSEAL_SEED={seed} does it again: {said}");
        }
    }
}

/// A seed decides everything, also the version.
fn goes_round(seed: u64) {
    let major = [15, 18, 17, 16][usize::try_from(seed).unwrap() % MAJORS.len()];
    let server = Postgres::shared_of(major);
    let source = server.create_database("generated");
    let xml = "SELECT count(*) FROM pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%--with-libxml%'";
    let has = Has {
        xml: server.psql("postgres", xml) == "1",
        unlogged_identities: major != 16,
    };
    let mut pgseal = Pgseal::new();
    pgseal
        .with_clients(&bin_dir_of(major))
        .set("DATABASE_URL", &source.url);
    let mut dice = Dice::new(seed);
    let mut sql = "SET client_min_messages = warning;\n".to_owned();
    for _ in 0..SCHEMAS_IN_DATABASE {
        sql += &schema::schema(&mut dice, &has);
    }
    let file = pgseal.file("generated.sql");
    std::fs::write(&file, sql).unwrap();
    run(server
        .client("psql", &source.name)
        .args([
            "-X",
            "--quiet",
            "--output=/dev/null",
            "--set=ON_ERROR_STOP=1",
            "--file",
        ])
        .arg(&file));

    let before = Content::of(server, &source.name);
    let made = pgseal.json(&["backup"]);
    assert_eq!(made["row_count"].as_u64().unwrap(), before.rows());
    pgseal.ok(&["verify", "latest"]);
    let copy = server.name("generated_copy");
    let restored = pgseal.json(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(restored["rows_compared"], made["row_count"]);
    assert_same(&before, &Content::of(server, &copy.name));
}
