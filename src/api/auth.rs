//! Who calls: a bearer token, signed by the one algorithm that the configuration names, and its claims.
//!
//! The library compares the signature, in constant time; which algorithm that is, and what header and claims must say,
//! is decided here. Nothing of a token is ever in an error or a log.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::json;

/// A token may have so many bytes; they come in a header.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Clocks may differ by so many seconds.
const LEEWAY_SECONDS: f64 = 30.0;
/// A subject may have so many characters; it stands in the audit.
const SUBJECT_CHARS_MAX: usize = 255;
/// The role that may do everything here.
const ADMIN: &str = "admin";
/// Header fields that tell where to find a key, or that more must be understood than is: each is refused.
const HEADER_REFUSED: [&str; 5] = ["crit", "jku", "jwk", "x5u", "b64"];
/// HMAC's key must not be shorter than its digest (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// What a token is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// What the configuration says of tokens.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// The one algorithm.
    pub signature: Signature,
    /// Who must have issued them.
    pub issuer: Option<String>,
    /// Whom they must be for.
    pub audience: Option<String>,
    /// The claim with the roles; `None`: `role` or `roles`.
    pub role_claim: Option<String>,
    /// The key's id that they must name.
    pub key_id: Option<String>,
}

/// Checks tokens.
#[derive(Clone)]
pub struct Tokens {
    rules: TokenRules,
    key: DecodingKey,
}

/// Whoever is behind a token that was believed: an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its subject.
    pub subject: String,
    /// Until when it is believed.
    pub expires_at: OffsetDateTime,
}

/// Why a token is not believed. The caller only hears which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It proves nothing; why, for the log.
    Unproved(&'static str),
    /// It is genuine, and not an administrator's.
    NoAdmin,
}

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Too short to be safe.
    #[error(
        "the secret for tokens has fewer than {SECRET_BYTES_MIN} bytes\nhint: set JWT_SECRET to at least 32 random bytes, as openssl rand -base64 32 prints them"
    )]
    Short,
    /// Everybody knows it.
    #[error(
        "the secret for tokens is a PEM block, and a public key is no secret\nhint: set JWT_ALGORITHM to RS256, ES256 or EdDSA, and JWT_PUBLIC_KEY_FILE to that file"
    )]
    PublicSecret,
    /// It is not a public key for that algorithm.
    #[error(
        "the public key for tokens is not in PEM, or not one for JWT_ALGORITHM\nhint: it begins with -----BEGIN PUBLIC KEY-----"
    )]
    NotAKey,
    /// Only who has the secret can sign.
    #[error(
        "tokens can be made here only with HS256\nhint: with a public key, whoever has the private one issues them"
    )]
    CannotSign,
    /// The library refused.
    #[error("sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

impl Tokens {
    /// Takes the key: a secret, or a public key's PEM.
    ///
    /// # Errors
    /// It is not a key for the algorithm, or no safe one.
    pub fn new(rules: TokenRules, key: &str) -> Result<Self, KeyError> {
        let pem = key.as_bytes();
        let key = match rules.signature {
            Signature::Hs256 => {
                require_secret(key)?;
                DecodingKey::from_secret(pem)
            }
            Signature::Rs256 => DecodingKey::from_rsa_pem(pem).map_err(|_| KeyError::NotAKey)?,
            Signature::Es256 => DecodingKey::from_ec_pem(pem).map_err(|_| KeyError::NotAKey)?,
            Signature::EdDsa => DecodingKey::from_ed_pem(pem).map_err(|_| KeyError::NotAKey)?,
        };
        Ok(Self { rules, key })
    }

    /// Who is behind the value of an `Authorization` header.
    ///
    /// # Errors
    /// Nobody, or nobody who may do anything here.
    pub fn caller(&self, authorization: &[u8], now: OffsetDateTime) -> Result<Caller, Refused> {
        let unproved = Refused::Unproved;
        let (scheme, token) = std::str::from_utf8(authorization)
            .ok()
            .and_then(|text| text.split_once(' '))
            .ok_or(unproved("no bearer token"))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unproved("no bearer token"));
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(unproved("too long"));
        }
        let claims = self.proved(token)?;
        let expires_at = self.require_claims(&claims, now)?;
        let subject = claims.get("sub").and_then(Value::as_str);
        let subject = subject
            .filter(|text| !text.is_empty() && text.chars().count() <= SUBJECT_CHARS_MAX)
            .filter(|text| !text.chars().any(char::is_control))
            .ok_or(unproved("no usable subject"))?;
        if !self.is_admin(&claims) {
            return Err(Refused::NoAdmin);
        }
        Ok(Caller {
            subject: subject.to_owned(),
            expires_at,
        })
    }

    /// The claims, once the signature is right.
    fn proved(&self, token: &str) -> Result<Map<String, Value>, Refused> {
        let unproved = Refused::Unproved;
        let (message, signature) = token.rsplit_once('.').ok_or(unproved("no token"))?;
        let (header, claims) = message.split_once('.').ok_or(unproved("no token"))?;
        if claims.contains('.') {
            return Err(unproved("no token"));
        }
        let header = object(header).ok_or(unproved("no header"))?;
        self.require_header(&header)?;
        let is_right = crypto::verify(
            signature,
            message.as_bytes(),
            &self.key,
            self.rules.signature.algorithm(),
        );
        if !is_right.unwrap_or(false) {
            return Err(unproved("wrong signature"));
        }
        object(claims).ok_or(unproved("no claims"))
    }

    fn require_header(&self, header: &Map<String, Value>) -> Result<(), Refused> {
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        if text("alg") != Some(self.rules.signature.name()) {
            return Err(Refused::Unproved("another algorithm"));
        }
        if HEADER_REFUSED.iter().any(|name| header.contains_key(*name)) {
            return Err(Refused::Unproved("a header field that is not taken"));
        }
        if header.contains_key("typ") {
            let typ = text("typ").unwrap_or_default().to_ascii_lowercase();
            if !matches!(typ.as_str(), "jwt" | "at+jwt" | "application/at+jwt") {
                return Err(Refused::Unproved("another type"));
            }
        }
        if self.rules.key_id.is_some() && text("kid") != self.rules.key_id.as_deref() {
            return Err(Refused::Unproved("another key"));
        }
        Ok(())
    }

    /// When it expires.
    fn require_claims(
        &self,
        claims: &Map<String, Value>,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, Refused> {
        let unproved = Refused::Unproved;
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds since 1970 are exact in a double for millions of years"
        )]
        let now = now.unix_timestamp() as f64;
        let moment = |name: &'static str| match claims.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_f64() {
                Some(at) if at.is_finite() && at >= 0.0 => Ok(Some(at)),
                _ => Err(unproved("a time that is none")),
            },
            Some(_) => Err(unproved("a time that is none")),
        };
        let expires = moment("exp")?.ok_or(unproved("no expiry"))?;
        if expires <= now - LEEWAY_SECONDS {
            return Err(unproved("expired"));
        }
        if moment("nbf")?.is_some_and(|from| from > now + LEEWAY_SECONDS) {
            return Err(unproved("not valid yet"));
        }
        if moment("iat")?.is_some_and(|at| at > now + LEEWAY_SECONDS) {
            return Err(unproved("issued in the future"));
        }
        if let Some(issuer) = &self.rules.issuer {
            if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
                return Err(unproved("another issuer"));
            }
        }
        if let Some(audience) = &self.rules.audience {
            if !says(claims.get("aud"), audience) {
                return Err(unproved("another audience"));
            }
        }
        // Whatever lies beyond the year 9999 is never.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "beyond the range it is clamped, and then out of the calendar"
        )]
        let at = OffsetDateTime::from_unix_timestamp(expires as i64);
        Ok(at.unwrap_or(time::macros::datetime!(9999-12-31 23:59:59 UTC)))
    }

    fn is_admin(&self, claims: &Map<String, Value>) -> bool {
        match &self.rules.role_claim {
            None => says(claims.get("role"), ADMIN) || says(claims.get("roles"), ADMIN),
            // Names of claims may be URLs, with points in them.
            Some(path) => says(claims.get(path).or_else(|| at_path(claims, path)), ADMIN),
        }
    }
}

impl Signature {
    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Makes a token of an administrator that [`Tokens`] of the same rules and key believe.
///
/// # Errors
/// The rules are not those of a secret, or the secret is no safe one.
pub fn mint(
    rules: &TokenRules,
    key: &str,
    subject: &str,
    (now, lifetime): (OffsetDateTime, time::Duration),
) -> Result<String, KeyError> {
    if rules.signature != Signature::Hs256 {
        return Err(KeyError::CannotSign);
    }
    require_secret(key)?;
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), subject.into());
    claims.insert("iat".to_owned(), now.unix_timestamp().into());
    claims.insert("exp".to_owned(), (now + lifetime).unix_timestamp().into());
    for (name, value) in [("iss", &rules.issuer), ("aud", &rules.audience)] {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value.clone().into());
        }
    }
    let path = rules.role_claim.as_deref().unwrap_or("role");
    let mut names: Vec<&str> = if path.contains("://") {
        vec![path]
    } else {
        path.split('.').collect()
    };
    let outermost = names.remove(0);
    let role = names
        .into_iter()
        .rev()
        .fold(Value::from(ADMIN), |inner, name| {
            Value::Object(Map::from_iter([(name.to_owned(), inner)]))
        });
    claims.insert(outermost.to_owned(), role);
    let header = Header {
        kid: rules.key_id.clone(),
        ..Header::new(Algorithm::HS256)
    };
    let key = EncodingKey::from_secret(key.as_bytes());
    jsonwebtoken::encode(&header, &claims, &key).map_err(KeyError::Sign)
}

fn require_secret(key: &str) -> Result<(), KeyError> {
    if key.contains("-----BEGIN") {
        return Err(KeyError::PublicSecret);
    }
    if key.len() < SECRET_BYTES_MIN {
        return Err(KeyError::Short);
    }
    Ok(())
}

/// A part of a token: base64url of a JSON object.
fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    json::read(&bytes).ok()
}

/// Whether a claim is exactly this text, or a list that has it.
fn says(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(list)) => list.iter().any(|item| item.as_str() == Some(wanted)),
        _ => false,
    }
}

fn at_path<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut names = path.split('.');
    let outermost = claims.get(names.next()?)?;
    names.try_fold(outermost, |value, name| value.as_object()?.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-25 05:00 UTC);
    const SECRET: &str = "dummy-secret-of-at-least-32-bytes-1";

    fn rules() -> TokenRules {
        TokenRules {
            signature: Signature::Hs256,
            issuer: None,
            audience: None,
            role_claim: None,
            key_id: None,
        }
    }

    fn refusal(rules: TokenRules, claims: &Value) -> Option<Refused> {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap();
        let tokens = Tokens::new(rules, SECRET).unwrap();
        tokens
            .caller(format!("Bearer {token}").as_bytes(), NOW)
            .err()
    }

    #[test]
    fn a_minted_token_is_believed_until_it_expires() {
        for role_claim in [
            None,
            Some("realm_access.roles"),
            Some("https://a.example/roles"),
        ] {
            let rules = TokenRules {
                issuer: Some("me".to_owned()),
                audience: Some("pgseal".to_owned()),
                role_claim: role_claim.map(str::to_owned),
                key_id: Some("one".to_owned()),
                ..rules()
            };
            let token = mint(&rules, SECRET, "me", (NOW, time::Duration::HOUR)).unwrap();
            let tokens = Tokens::new(rules, SECRET).unwrap();
            let header = format!("bearer {token}");
            let caller = tokens.caller(header.as_bytes(), NOW).unwrap();
            assert_eq!(caller.subject, "me");
            assert_eq!(caller.expires_at, NOW + time::Duration::HOUR);
            let late = NOW + time::Duration::HOUR + time::Duration::seconds(30);
            assert_eq!(
                tokens.caller(header.as_bytes(), late),
                Err(Refused::Unproved("expired"))
            );
        }
    }

    /// Row 103: exactly the role, as a text or in a list, where the configuration says.
    #[test]
    fn only_the_role_admin_is_one() {
        let exp = NOW.unix_timestamp() + 60;
        let with = |role: Value| json!({"sub": "me", "exp": exp, "role": role});
        for good in [json!("admin"), json!(["user", "admin"])] {
            assert_eq!(refusal(rules(), &with(good)), None);
        }
        let listed = json!({"sub": "me", "exp": exp, "roles": ["admin"]});
        assert_eq!(refusal(rules(), &listed), None);
        for bad in [
            json!("Admin"),
            json!("admin "),
            json!("administrator"),
            json!("user admin"),
            json!(["user"]),
            json!([["admin"]]),
            json!({"admin": true}),
            json!({"role": "admin"}),
            json!(null),
            json!(true),
            json!(1),
        ] {
            assert_eq!(
                refusal(rules(), &with(bad.clone())),
                Some(Refused::NoAdmin),
                "{bad}"
            );
        }
        let nested = TokenRules {
            role_claim: Some("a.b".to_owned()),
            ..rules()
        };
        let claims = json!({"sub": "me", "exp": exp, "role": "admin", "a": {"b": ["admin"]}});
        assert_eq!(refusal(nested.clone(), &claims), None);
        let elsewhere = json!({"sub": "me", "exp": exp, "role": "admin", "a": {"c": "admin"}});
        assert_eq!(refusal(nested, &elsewhere), Some(Refused::NoAdmin));
    }

    /// Rows 101 and 102: each claim is there, in its form and in its time.
    #[test]
    fn claims_are_what_they_must_be() {
        let now = NOW.unix_timestamp();
        let strict = TokenRules {
            issuer: Some("us".to_owned()),
            audience: Some("pgseal".to_owned()),
            ..rules()
        };
        let good = json!({"sub": "me", "role": "admin", "exp": now + 60, "nbf": now, "iat": now, "iss": "us", "aud": ["x", "pgseal"]});
        assert_eq!(refusal(strict.clone(), &good), None);
        let past = json!(now - 31);
        let future = json!(now + 31);
        for (name, wrong) in [
            ("exp", past),
            ("exp", json!((now + 60).to_string())),
            ("exp", json!(null)),
            ("exp", json!(-1)),
            ("exp", json!([now + 60])),
            ("exp", json!(-1e300)),
            ("nbf", future.clone()),
            ("nbf", json!("0")),
            ("nbf", json!(null)),
            ("iat", future),
            ("iat", json!("x")),
            ("iss", json!("them")),
            ("iss", json!(["us"])),
            ("iss", json!(null)),
            ("aud", json!("other")),
            ("aud", json!([])),
            ("aud", json!(null)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("a\nb")),
            ("sub", json!("x".repeat(256))),
        ] {
            let mut claims = good.clone();
            claims[name] = wrong.clone();
            assert!(
                matches!(refusal(strict.clone(), &claims), Some(Refused::Unproved(_))),
                "{name}: {wrong}"
            );
        }
        for missing in ["exp", "iss", "aud", "sub"] {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().shift_remove(missing);
            assert!(
                matches!(refusal(strict.clone(), &claims), Some(Refused::Unproved(_))),
                "{missing}"
            );
        }
    }

    /// Rows 99, 100 and 102: what the header says chooses nothing.
    #[test]
    fn headers_choose_nothing() {
        let exp = NOW.unix_timestamp() + 60;
        let claims =
            URL_SAFE_NO_PAD.encode(json!({"sub": "me", "exp": exp, "role": "admin"}).to_string());
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signed = |header: &str| {
            let message = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(header));
            let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            format!("Bearer {message}.{signature}")
        };
        let tokens = Tokens::new(
            TokenRules {
                key_id: Some("one".to_owned()),
                ..rules()
            },
            SECRET,
        )
        .unwrap();
        let caller = |header: &str| tokens.caller(signed(header).as_bytes(), NOW);
        assert!(caller(r#"{"alg":"HS256","kid":"one"}"#).is_ok());
        for header in [
            r#"{"kid":"one"}"#,
            r#"{"alg":"none","kid":"one"}"#,
            r#"{"alg":"HS384","kid":"one"}"#,
            r#"{"alg":"hs256","kid":"one"}"#,
            r#"{"alg":["HS256"],"kid":"one"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"HS256","kid":"two"}"#,
            r#"{"alg":"HS256","kid":"one","crit":["exp"]}"#,
            r#"{"alg":"HS256","kid":"one","jku":"https://a.example"}"#,
            r#"{"alg":"HS256","kid":"one","typ":"JWE"}"#,
            r#"{"alg":"HS256","kid":"one","kid":"one"}"#,
            r#"{"alg":"RS256","alg":"HS256","kid":"one"}"#,
            "[]",
            "",
        ] {
            assert!(
                matches!(caller(header), Err(Refused::Unproved(_))),
                "{header}"
            );
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        assert!(matches!(
            Tokens::new(rules(), "short"),
            Err(KeyError::Short)
        ));
        let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----";
        assert!(matches!(
            Tokens::new(rules(), pem),
            Err(KeyError::PublicSecret)
        ));
        for signature in [Signature::Rs256, Signature::Es256, Signature::EdDsa] {
            let rules = TokenRules {
                signature,
                ..rules()
            };
            assert!(matches!(Tokens::new(rules, SECRET), Err(KeyError::NotAKey)));
        }
    }

    /// Row 113: how much of a signature is right does not show in the time that its refusal takes.
    #[test]
    fn a_nearly_right_signature_is_refused_as_slowly_as_a_wrong_one() {
        let token = mint(&rules(), SECRET, "me", (NOW, time::Duration::HOUR)).unwrap();
        let tokens = Tokens::new(rules(), SECRET).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let with = |index: usize| {
            let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
            bytes[index] ^= 1;
            format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(bytes))
        };
        let candidates = [with(0), with(31)];
        let mut taken = [Vec::new(), Vec::new()];
        for _ in 0..20_000 {
            for (candidate, times) in candidates.iter().zip(&mut taken) {
                let started = std::time::Instant::now();
                assert!(tokens.caller(candidate.as_bytes(), NOW).is_err());
                times.push(started.elapsed().as_nanos());
            }
        }
        // The lower quartile, because everything else on this machine only ever adds.
        let [first, last] = taken.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 4]
        });
        assert!(
            first.abs_diff(last) * 8 < first.max(last),
            "{first} ns, {last} ns"
        );
    }
}
