//! Tokens that must not be believed, on every route that there is.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::harness::api::{Api, SECRET};
use crate::harness::folder;
use crate::harness::service::Service;

/// A token of this header and these claims, signed with this secret.
fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn good() -> (Value, Value) {
    let claims = json!({"sub": "corpus", "role": "admin", "exp": now() + 3600, "iss": "us", "aud": "pgseal"});
    (json!({"alg": "HS256", "typ": "JWT"}), claims)
}

/// Every one with what it is, the value of its `Authorization` header, and the status that it deserves.
fn corpus() -> Vec<(String, String, u16)> {
    let (header, claims) = good();
    let mut corpus = Vec::new();
    let mut add = |name: &str, value: String, status| corpus.push((name.to_owned(), value, status));
    let token = signed(&header, &claims, SECRET.as_bytes());
    let bearer = |token: &str| format!("Bearer {token}");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let payload = message.split_once('.').unwrap().1;

    // Rows 99 and 100: the token's own choice of algorithm is no choice.
    for algorithm in [
        json!("none"),
        json!("None"),
        json!("HS384"),
        json!("RS256"),
        json!("hs256"),
        json!(""),
        json!(null),
        json!(256),
        json!(["HS256"]),
    ] {
        let header = json!({"alg": algorithm, "typ": "JWT"});
        let with = signed(&header, &claims, SECRET.as_bytes());
        add(&format!("alg {algorithm}"), bearer(&with), 401);
        let (unsigned, _) = with.rsplit_once('.').unwrap();
        add(
            &format!("alg {algorithm}, unsigned"),
            bearer(&format!("{unsigned}.")),
            401,
        );
    }
    add(
        "no alg",
        bearer(&signed(&json!({"typ": "JWT"}), &claims, SECRET.as_bytes())),
        401,
    );
    for extra in [
        json!({"jku": "http://127.0.0.1:1/k"}),
        json!({"crit": ["exp"]}),
        json!({"x5u": "x"}),
        json!({"jwk": {}}),
        json!({"b64": false}),
        json!({"typ": "JWE"}),
    ] {
        let mut with = header.clone();
        with.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        add(
            &format!("header {extra}"),
            bearer(&signed(&with, &claims, SECRET.as_bytes())),
            401,
        );
    }
    // Rows 101 and 102: claims.
    for (name, value) in [
        ("exp", json!(now() - 60)),
        ("exp", json!((now() + 3600).to_string())),
        ("exp", Value::Null),
        ("exp", json!([])),
        ("nbf", json!(now() + 3600)),
        ("nbf", json!("0")),
        ("iat", json!(now() + 86400)),
        ("iat", json!("now")),
        ("iss", json!("them")),
        ("aud", json!("other")),
        ("aud", json!(["x"])),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
    ] {
        let mut with = claims.clone();
        with[name] = value.clone();
        add(
            &format!("{name} {value}"),
            bearer(&signed(&header, &with, SECRET.as_bytes())),
            401,
        );
    }
    for name in ["exp", "sub", "iss", "aud"] {
        let mut with = claims.clone();
        with.as_object_mut().unwrap().shift_remove(name);
        add(
            &format!("no {name}"),
            bearer(&signed(&header, &with, SECRET.as_bytes())),
            401,
        );
    }
    // Row 103: roles.
    for role in [
        json!("user"),
        json!("Admin"),
        json!("admin "),
        json!(["user"]),
        json!({"admin": true}),
        json!(null),
        json!(true),
    ] {
        let mut with = claims.clone();
        with["role"] = role.clone();
        add(
            &format!("role {role}"),
            bearer(&signed(&header, &with, SECRET.as_bytes())),
            403,
        );
    }
    // Tampered, cut, doubled, foreign.
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
    flipped[5] ^= 4;
    let flipped = URL_SAFE_NO_PAD.encode(flipped);
    add(
        "a flipped signature",
        bearer(&format!("{message}.{flipped}")),
        401,
    );
    add("a cut signature", bearer(&token[..token.len() - 2]), 401);
    let other = URL_SAFE_NO_PAD.encode(
        json!({"sub": "x", "role": "admin", "exp": now() + 9999, "iss": "us", "aud": "pgseal"})
            .to_string(),
    );
    add(
        "other claims",
        bearer(&token.replacen(payload, &other, 1)),
        401,
    );
    add(
        "another secret",
        bearer(&signed(
            &header,
            &claims,
            b"another-secret-of-at-least-32-bytes!",
        )),
        401,
    );
    add(
        "an empty secret",
        bearer(&signed(&header, &claims, b"")),
        401,
    );
    for odd in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer ..",
        "Bearer a.b.c.d",
        "Basic YWRtaW46YWRtaW4=",
        "bearer null",
    ] {
        add(&format!("{odd:?}"), odd.to_owned(), 401);
    }
    add("another scheme", format!("Token {token}"), 401);
    add("no scheme", token.clone(), 401);
    add(
        "oversized",
        bearer(&format!("{token}{}", "A".repeat(10_000))),
        401,
    );
    corpus
}

/// Rows 99 to 103, and 114: what is not on the open list believes none of them, says the same to each, and logs none.
#[test]
fn every_route_is_open_or_refuses_every_bad_token() {
    let mut service = Service::start();
    service.pgseal.set("BACKUP_REQUESTS_PER_SECOND", "100000");
    service
        .pgseal
        .set("JWT_ISSUER", "us")
        .set("JWT_AUDIENCE", "pgseal");
    let mut api = Api::of(service);
    let document: Value = serde_json::from_str(&pgseal::api::document()).unwrap();
    let served = api.bare("GET", "/api/openapi.json", &[], "").json();
    assert_eq!(served, document);
    let mut routes: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.clone()));
        }
    }
    // Whatever the documentation does not know is closed too.
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/api/admin"),
        ("PUT", "/api/admin/backups"),
        ("GET", "/healthz/x"),
        ("GET", "/metrics/"),
        ("GET", "//healthz"),
    ] {
        routes.push((method.to_owned(), path.to_owned()));
    }
    let (header, claims) = good();
    api.token = signed(&header, &claims, SECRET.as_bytes());
    assert_eq!(api.ask("GET", "/api/admin/backups", "").status, 200);
    let corpus = corpus();
    let (mut closed, mut tried) = (0, 0);
    let mut uniform = std::collections::BTreeMap::new();
    for (method, path) in &routes {
        let concrete = path.replace("{id}", "1");
        let is_open = pgseal::api::OPEN.contains(&path.as_str());
        if is_open {
            assert_eq!(
                api.bare(method, &concrete, &[], "").status,
                200,
                "{method} {path}"
            );
            continue;
        }
        closed += 1;
        api.bare(method, &concrete, &[], "")
            .is_problem(401, "unauthorized");
        for (name, value, status) in &corpus {
            let answer = api.bare(method, &concrete, &[("Authorization", value)], "");
            assert_eq!(answer.status, *status, "{method} {path}, {name}: {answer}");
            let mut problem = answer.json();
            problem["request_id"] = Value::Null;
            let first = uniform.entry(*status).or_insert_with(|| problem.clone());
            assert_eq!(*first, problem, "{method} {path}, {name}");
            tried += 1;
        }
        let twice = [
            ("Authorization", format!("Bearer {}", api.token)),
            ("Authorization", corpus[0].1.clone()),
        ];
        let twice: Vec<(&str, &str)> = twice
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(api.bare(method, &concrete, &twice, "").status, 401);
    }
    assert!(
        closed >= 14 && tried > 800,
        "{closed} closed routes, {tried} tokens"
    );
    assert_eq!(
        api.service
            .catalog
            .psql("SELECT count(*) FROM pgseal.backups"),
        "0"
    );
    assert_eq!(
        api.service
            .catalog
            .psql("SELECT count(*) FROM pgseal.audit"),
        "0"
    );
    let log = api.stop().stderr;
    for (name, value, _) in &corpus {
        let token = value.rsplit(' ').next().unwrap_or_default();
        assert!(
            token.len() < 20 || !log.contains(token),
            "{name} is in the log"
        );
    }
    assert!(!log.contains(SECRET) && !log.contains(&api.token));
    assert!(!log.contains("panicked"), "{log}");
}

/// The enumeration above sees what the documentation knows: nothing may be routed beside it.
#[test]
fn nothing_is_routed_beside_the_documentation() {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/router.rs")).unwrap();
    for way in [
        ".route(",
        ".route_service(",
        ".nest(",
        ".nest_service(",
        ".merge(",
        "axum::routing",
    ] {
        assert!(!source.contains(way), "{way}");
    }
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("axum::routing") && !text.contains("Router::new("));
    }
}

/// Row 100: with a public key, only who has the private one signs; the public key is no secret of HS256.
#[test]
fn public_keys_verify_and_never_sign() {
    let keys = folder();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(keys.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        "RS256",
    ]);
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        "ES256",
    ]);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "EdDSA"]);
    let mut api = Api::start();
    api.stop();
    api.service.pgseal.unset("JWT_SECRET");
    let claims = json!({"sub": "me", "roles": ["admin"], "exp": now() + 3600});
    for (name, algorithm) in [
        ("RS256", Algorithm::RS256),
        ("ES256", Algorithm::ES256),
        ("EdDSA", Algorithm::EdDSA),
    ] {
        let public = format!("{name}.pub");
        openssl(&["pkey", "-in", name, "-pubout", "-out", &public]);
        let path = keys.path().join(&public);
        api.service
            .pgseal
            .set("JWT_ALGORITHM", name)
            .set("JWT_PUBLIC_KEY_FILE", &path);
        api.run();
        let pem = std::fs::read(keys.path().join(name)).unwrap();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
            _ => EncodingKey::from_ed_pem(&pem),
        };
        api.token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key.unwrap()).unwrap();
        assert_eq!(
            api.ask("GET", "/api/admin/backups", "").status,
            200,
            "{name}"
        );
        let public = std::fs::read(&path).unwrap();
        for alg in ["HS256", name] {
            for secret in [&public[..], public.trim_ascii_end(), b"", SECRET.as_bytes()] {
                let forged = signed(&json!({"alg": alg, "typ": "JWT"}), &claims, secret);
                let answer = api.bare(
                    "GET",
                    "/api/admin/backups",
                    &[("Authorization", &format!("Bearer {forged}"))],
                    "",
                );
                answer.is_problem(401, "unauthorized");
            }
        }
        api.stop();
        let refused = api.service.pgseal.fails(5, &["token", "--subject", "me"]);
        assert!(refused.contains("only with HS256"), "{refused}");
        api.service.pgseal.set(
            "JWT_ALGORITHM",
            if name == "RS256" { "ES256" } else { "RS256" },
        );
        let refused = api.service.pgseal.fails(5, &["serve"]);
        assert!(refused.contains("not one for JWT_ALGORITHM"), "{refused}");
    }
}

/// Row 114: who tries tokens out is slowed down, and who has a good one is not, from the same address.
#[test]
fn trying_tokens_out_is_slow() {
    let mut service = Service::start();
    // So few that a slow machine asks for more than that too.
    service.pgseal.set("BACKUP_REQUESTS_PER_SECOND", "5");
    let api = Api::of(service);
    let attempt = || {
        api.bare(
            "GET",
            "/api/admin/backups/1",
            &[("Authorization", "Bearer a.b.c")],
            "",
        )
    };
    let answers: Vec<_> = (0..60).map(|_| attempt()).collect();
    let slowed = answers.iter().filter(|answer| answer.status == 429).count();
    assert!(slowed >= 20, "{slowed} of 60");
    let last = answers.iter().find(|answer| answer.status == 429).unwrap();
    last.is_problem(429, "too_many_requests");
    assert!(last.header("retry-after").is_some());
    api.problem(404, "backup_not_found", ("GET", "/api/admin/backups/1", ""));
    let fast: Vec<_> = (0..300)
        .map(|_| api.ask("GET", "/api/admin/backups/1", "").status)
        .collect();
    assert!(fast.contains(&429) && fast.iter().all(|status| matches!(status, 404 | 429)));
}
