//! The sealed format under attack: messages that were changed, cut, made by hand to be misread, or made to cost too much; and
//! what another implementation makes of ours and we of its.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgp::composed::{Message, MessageBuilder};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::crypto::{aead::AeadAlgorithm, aead::ChunkSize, hash::HashAlgorithm};
use pgp::types::{CompressionAlgorithm, StringToKey};
use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Opener, OutputLimit, Packing, SealError, Sealer};
use rand_core::OsRng;

use crate::harness::cli::{PASSPHRASE, Pgseal};
use crate::harness::message::{
    TAG_LITERAL, TAG_MARKER, TAG_ONE_PASS_SIGNATURE, TAG_SED, TAG_SEIPD, TAG_SIGNATURE, compressed,
    literal, packet, salted, salted_for_nothing, sealed, sealed_without_integrity, skesk,
};
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::S3Server;
use crate::harness::watch::Watcher;
use crate::harness::{run, scale};

/// What opening may take of the memory.
const RSS_KIB_MAX: u64 = 96 * 1024;

fn dump_of(database: &Database<'_>) -> Vec<u8> {
    let mut command = Postgres::shared().client("pg_dump", &database.name);
    run(command.args(["--format=custom", "--compress=0"]))
}

/// A folder of the store for objects that pgseal did not make.
fn foreign_folder(pgseal: &Pgseal) -> PathBuf {
    let folder = pgseal.store().join("backups/prod/2001/01");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Rows 74 and 75: a message that is anything but session keys, one protected container, one compression at most and one
/// literal is refused by what it is, and not a byte of it comes out. The same content in the right shape opens.
#[test]
fn a_message_of_another_shape_is_refused_by_name() {
    let source = Postgres::shared().create_database("shapes");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 100) i");
    let pgseal = Pgseal::new();
    let path = foreign_folder(&pgseal).join("shape.gpg");
    let content = dump_of(&source);
    let held = literal(&content);
    let message = |inner: &[u8]| [salted(), sealed(inner)].concat();
    let body = |packet: &[u8]| packet[6..].to_vec();

    for right in [message(&held), message(&compressed(&held))] {
        fs::write(&path, right).unwrap();
        pgseal.ok(&["verify", "shape"]);
        assert!(pgseal.run(&["fetch", "shape", "-o", "-"]).stdout == content);
    }

    let protected = body(&sealed(&held));
    // Without the version byte in front and the detection code behind: what EFAIL did (CVE-2017-17688).
    let downgraded = packet(TAG_SED, &protected[1..protected.len() - 22]);
    let unprotected = packet(TAG_SEIPD, &protected[..protected.len() - 22]);
    let twice = compressed(&compressed(&held));
    let signature = packet(TAG_SIGNATURE, &[4; 70]);
    let one_pass = packet(
        TAG_ONE_PASS_SIGNATURE,
        &[3, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    );
    let mut second_version = protected.clone();
    second_version[0] = 2;
    let plain_cipher = [&[4, 0, 1, 8][..], b"saltsalt"].concat();
    let shapes: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a downgraded container",
            [salted(), downgraded].concat(),
            "without integrity protection",
        ),
        (
            "a container of old",
            [salted(), sealed_without_integrity(&held)].concat(),
            "without integrity protection",
        ),
        (
            "a protected one without its code",
            [salted(), unprotected].concat(),
            "was changed",
        ),
        (
            "a container of version 2",
            [salted(), packet(TAG_SEIPD, &second_version)].concat(),
            "version",
        ),
        (
            "a cipher that is none",
            [packet(3, &plain_cipher), sealed(&held)].concat(),
            "was changed",
        ),
        ("plain content", held.clone(), "not encrypted"),
        ("compressed content", compressed(&held), "not encrypted"),
        (
            "signed content",
            [one_pass.clone(), held.clone(), signature.clone()].concat(),
            "signed, not encrypted",
        ),
        (
            "a signature before content",
            [signature.clone(), held.clone()].concat(),
            "signed, not encrypted",
        ),
        (
            "content before its key",
            [held.clone(), salted(), sealed(&held)].concat(),
            "not encrypted",
        ),
        (
            "a container without a key",
            sealed(&held),
            "no session key packet",
        ),
        (
            "a key for a key pair",
            [packet(1, &[3; 20]), sealed(&held)].concat(),
            "public key",
        ),
        (
            "a marker",
            [packet(TAG_MARKER, b"PGP"), message(&held)].concat(),
            "packet of type 10",
        ),
        (
            "signed inside",
            message(&[one_pass, held.clone(), signature].concat()),
            "none belongs",
        ),
        ("compressed twice", message(&twice), "none belongs"),
        ("sealed twice", message(&message(&held)), "none belongs"),
        (
            "two contents",
            message(&[held.clone(), held.clone()].concat()),
            "none belongs",
        ),
        ("no content", message(&[]), "was changed"),
        (
            "a container in the content's place",
            message(&packet(TAG_LITERAL, b"")),
            "was changed",
        ),
    ];
    for (what, bytes, said) in shapes {
        fs::write(&path, bytes).unwrap();
        let verified = pgseal.fails(4, &["verify", "shape"]);
        assert!(verified.contains(said), "{what}: {verified}");
        assert!(!verified.contains("panicked"), "{what}: {verified}");
        let fetched = pgseal.run(&["fetch", "shape", "-o", "-"]);
        assert_eq!(
            (fetched.code, fetched.stdout.len()),
            (4, 0),
            "{what}: {fetched}"
        );
    }
}

/// Row 77: what opening costs is ours to say, not the message's: the number of session keys, and what each derivation takes
/// of time and of memory.
#[test]
fn a_message_cannot_choose_what_opening_costs() {
    let pgseal = Pgseal::new();
    let path = foreign_folder(&pgseal).join("costly.gpg");
    let held = literal(b"PGDMP");
    // All of the memory there is, and more (RFC 9580, section 3.7.1.4: 2^31 KiB); no salt; the dearest of the accepted kinds.
    let argon2 = skesk(&[&[4][..], b"saltsaltsaltsalt", &[255, 255, 31]].concat());
    let simple = skesk(&[0, 8]);
    let dearest = skesk(&[&[3, 8][..], b"saltsalt", &[255]].concat());
    let cases = [
        (
            "10,000 keys",
            salted().repeat(10_000),
            "more than 8 session key packets",
        ),
        (
            "nine keys",
            salted().repeat(9),
            "more than 8 session key packets",
        ),
        ("Argon2", argon2.clone(), "Argon2"),
        ("no salt", simple, "without a salt"),
        (
            "eight of the dearest",
            dearest.repeat(8),
            "the passphrase does not open this message",
        ),
        ("a key of 256 bytes", packet(3, &[4; 256]), "of that size"),
    ];
    for (what, keys, said) in cases {
        fs::write(&path, [keys, sealed(&held)].concat()).unwrap();
        let started = Instant::now();
        let running = pgseal.start(&["verify", "costly"]);
        let watcher = Watcher::start(running.pid());
        let run = running.wait();
        let peak = watcher.finish().peak_rss_kib["pgseal"];
        assert_eq!(run.code, 4, "{what}: {run}");
        assert!(run.stderr.contains(said), "{what}: {run}");
        assert!(peak < RSS_KIB_MAX, "{what}: {peak} KiB");
        // Eight times 65 MB are hashed in a second or two; a machine that is busy gets more.
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{what}: {:?}",
            started.elapsed()
        );
    }
    // Eight keys are fine, and the last may be the right one, also behind one that is refused.
    let content = b"PGDMP and so on";
    for keys in [
        [salted_for_nothing().repeat(7), salted()].concat(),
        [argon2, salted()].concat(),
    ] {
        let bytes = [keys, sealed(&literal(content))].concat();
        assert_eq!(open(&bytes).unwrap(), content);
    }
}

fn passphrases() -> [Passphrase; 1] {
    [Passphrase::new(PASSPHRASE.into()).unwrap()]
}

/// What the whole message holds, once it was proved.
fn open(sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let source = Cursor::new(sealed.to_vec());
    let mut opener = Opener::open(source, &passphrases(), OutputLimit::Bytes(1 << 30))?;
    let (mut plain, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match opener.read(&mut buffer)? {
            0 => break,
            read => plain.extend_from_slice(&buffer[..read]),
        }
    }
    opener.finish()?;
    Ok(plain)
}

fn seal(plain: &[u8], packing: Packing) -> Vec<u8> {
    let mut sealer = Sealer::new(Vec::new(), &passphrases()[0], packing).unwrap();
    sealer.write(plain).unwrap();
    sealer.finish().unwrap().1
}

/// Row 65: in a message of our own making each byte counts: key, container, content and code. (`tampering.rs` flips each bit
/// of a message that is cheaper to open.)
#[test]
fn every_byte_of_our_own_message_counts() {
    for packing in [Packing::Stored, Packing::Zlib(6)]
        .into_iter()
        .take(scale(1, 2))
    {
        let sealed = seal(b"PGDMP, and a few rows", packing);
        assert_eq!(open(&sealed).unwrap(), b"PGDMP, and a few rows");
        for at in 0..sealed.len() {
            // Another bit each time; all of them where there is time.
            let bits = if scale(0, 1) == 1 {
                0..8
            } else {
                at % 8..at % 8 + 1
            };
            for bit in bits {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let opened = open(&changed);
                assert!(opened.is_err(), "bit {bit} of byte {at} does not count");
                assert!(!matches!(opened, Err(SealError::Io { .. })), "{opened:?}");
            }
        }
    } // In one so long that most of it comes out before its end is seen, all over it.
    let plain: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    let sealed = seal(&plain, Packing::Stored);
    assert!(open(&sealed).unwrap() == plain);
    for at in (0..sealed.len())
        .rev()
        .step_by(sealed.len() / scale(16, 400))
    {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(open(&changed).is_err(), "byte {at} does not count");
    }
}

/// Row 66: where the library panics, in the first bytes of the container, the program says that the message is cut, and goes
/// on living.
#[test]
fn a_cut_where_the_library_panics_is_contained() {
    let pgseal = Pgseal::new();
    let path = foreign_folder(&pgseal).join("cut.gpg");
    let whole = [salted(), sealed(&literal(&[7; 400]))].concat();
    let body = salted().len() + 6;
    for cut in (body + 17..=body + 40).step_by(scale(4, 1)) {
        // The length says what is there, so that only the container itself is cut; and then the file is.
        let shorter = packet(TAG_SEIPD, &whole[body..cut]);
        for bytes in [[salted(), shorter].concat(), whole[..cut].to_vec()] {
            fs::write(&path, bytes).unwrap();
            let said = pgseal.fails(4, &["verify", "cut"]);
            assert!(
                said.contains("error: open: ") && !said.contains("panicked"),
                "{said}"
            );
        }
    }
}

fn read_by_another(sealed: &[u8]) -> pgp::errors::Result<Vec<u8>> {
    let message = Message::from_bytes(sealed)?;
    // Where it is not compressed, this gives the message back.
    let mut message = message
        .decrypt_with_password(&PASSPHRASE.into())?
        .decompress()?;
    Ok(message.as_data_vec()?)
}

/// Row 80: a second implementation reads what we seal, to the byte, in every packing and in every size that takes other code.
#[test]
fn another_implementation_reads_ours() {
    for length in [0, 1, 70_000, (4 << 20) + 1] {
        let plain: Vec<u8> = (0_u32..length)
            .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes())
            .take(length as usize)
            .collect();
        for packing in [Packing::Stored, Packing::Zlib(1), Packing::Zlib(9)] {
            let sealed = seal(&plain, packing);
            let read = read_by_another(&sealed)
                .unwrap_or_else(|error| panic!("{length}, {packing:?}: {error}"));
            assert!(read == plain, "{length}, {packing:?}");
        }
    }
    let database = Postgres::shared().create_database("read_by_rpgp");
    database.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &database.url]);
    let sealed = fs::read(pgseal.store().join(made["object_key"].as_str().unwrap())).unwrap();
    let dump = read_by_another(&sealed).unwrap();
    assert_eq!(
        pgseal::seal::Digester::of(&dump).to_string(),
        made["plain_sha256"]
    );
}

/// Row 80: we read what a second implementation seals as we do, and refuse by name what gpg 2.2 would not read either.
#[test]
fn we_read_another_implementation() {
    let server = Postgres::shared();
    let source = server.create_database("sealed_by_rpgp");
    source.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    let dump = dump_of(&source);
    let pgseal = Pgseal::new();
    let folder = foreign_folder(&pgseal);
    let ciphers = [
        SymmetricKeyAlgorithm::AES128,
        SymmetricKeyAlgorithm::AES192,
        SymmetricKeyAlgorithm::AES256,
    ];
    let compressions = [
        None,
        Some(CompressionAlgorithm::ZIP),
        Some(CompressionAlgorithm::ZLIB),
    ];
    for (cipher, compression) in ciphers.into_iter().zip(compressions) {
        let mut message = MessageBuilder::from_reader("", dump.as_slice());
        if let Some(compression) = compression {
            message.compression(compression);
        }
        let mut message = message.seipd_v1(OsRng, cipher);
        let s2k = StringToKey::new_iterated(OsRng, HashAlgorithm::Sha256, 224);
        message
            .encrypt_with_password(s2k, &PASSPHRASE.into())
            .unwrap();
        let name = format!("rpgp_{}", u8::from(cipher));
        fs::write(
            folder.join(format!("{name}.gpg")),
            message.to_vec(OsRng).unwrap(),
        )
        .unwrap();
        let piped = pgseal.run(&["fetch", &name, "-o", "-"]);
        assert!(
            piped.code == 0 && piped.stdout == dump,
            "{cipher:?}: {}",
            piped.stderr
        );
    }
    let target = server.name("sealed_by_rpgp_copy");
    let restored = pgseal.json(&["restore", "rpgp_9", "--to", &target.url, "--mode", "new"]);
    let rows = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY i)) FROM t";
    assert_eq!(target.psql(rows), source.psql(rows));
    // Row 70: what no manifest vouches for says so.
    assert!(
        restored["warnings"][0]
            .as_str()
            .unwrap()
            .contains("foreign"),
        "{restored}"
    );

    let mut newer = MessageBuilder::from_bytes("", dump).seipd_v2(
        OsRng,
        SymmetricKeyAlgorithm::AES256,
        AeadAlgorithm::Ocb,
        ChunkSize::default(),
    );
    let s2k = StringToKey::new_argon2(OsRng, 1, 4, 12);
    newer
        .encrypt_with_password(OsRng, s2k, &PASSPHRASE.into())
        .unwrap();
    fs::write(folder.join("newer.gpg"), newer.to_vec(OsRng).unwrap()).unwrap();
    let said = pgseal.fails(4, &["verify", "newer"]);
    assert!(said.contains("version"), "{said}");
}

/// Rows 25 and 26: an object that a bucket lets rot, or loses, is refused before anything is touched, and the listing says
/// what it knows.
#[test]
fn a_bucket_that_rots_or_loses_objects_is_found_out() {
    let source = Postgres::shared().create_database("rotten");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 3000) i");
    let s3 = S3Server::start();
    let pgseal = s3.pgseal();
    let older = pgseal.json(&["backup", &source.url]);
    let made = pgseal.json(&["backup", &source.url]);
    let key = made["object_key"].as_str().unwrap();
    let dump = s3.bucket().join(key);
    let whole = fs::read(&dump).unwrap();
    let restore = ["restore", key, "--to", &source.url, "--mode", "in-place"];
    let assert_refused = |said: &str| {
        let objects = s3.objects();
        let commands = [&["verify", key][..], &["fetch", key, "-o", "-"], &restore];
        for command in commands {
            let run = pgseal.run(command);
            assert_eq!((run.code, run.stdout.len()), (4, 0), "{run}");
            assert!(run.stderr.contains(said), "{run}");
        }
        assert_eq!(
            source.psql("SELECT count(*), sum(i) FROM t"),
            "3000|4501500"
        );
        assert_eq!(s3.objects(), objects, "a safety backup was made");
        assert_eq!(pgseal.leftovers(), Vec::<String>::new());
    };
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut rotten = whole.clone();
        rotten[at] ^= 1;
        fs::write(&dump, rotten).unwrap();
        assert_refused("was changed or damaged");
    }
    fs::remove_file(&dump).unwrap();
    assert_refused("is lost");
    let listed = pgseal.json(&["list"]);
    let states: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["state"])
        .collect();
    assert_eq!(states, ["lost", "complete"]);
    let latest = pgseal.run(&["show", "latest", "--json"]);
    assert!(latest.stderr.contains("is lost"), "{latest}");
    let latest: serde_json::Value = serde_json::from_slice(&latest.stdout).unwrap();
    assert_eq!(latest["name"], older["name"]);
    fs::write(&dump, &whole).unwrap();
    pgseal.ok(&["verify", key]);
}
