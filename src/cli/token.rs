//! `pgseal token`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::Context;
use super::serve::rules;
use crate::api;
use crate::config::JwtArgs;

const AFTER_HELP: &str = "\
Examples:
  TOKEN=$(pgseal token --subject me --hours 8)

For trying the API out, where tokens are signed with JWT_SECRET: whoever has that secret may do everything.";

/// Make an administrator's token for the API
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct TokenArgs {
    /// Whose it is; stands in the audit
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    subject: String,
    /// How long it is valid
    #[arg(long, value_name = "HOURS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=24 * 365))]
    hours: u16,
    #[command(flatten)]
    tokens: JwtArgs,
}

#[derive(Serialize)]
struct Made {
    token: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: time::OffsetDateTime,
}

impl TokenArgs {
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<()> {
        let now = (context.clock)();
        let lifetime = time::Duration::hours(self.hours.into());
        let rules = rules(&self.tokens);
        // Said before a key is looked for that would be the wrong one.
        let key = if rules.signature == api::Signature::Hs256 {
            self.tokens.key()?
        } else {
            return Err(api::KeyError::CannotSign.into());
        };
        let token = api::mint(&rules, key.expose_secret(), &self.subject, (now, lifetime))?;
        let made = Made {
            expires_at: now + lifetime,
            token,
        };
        context.output.print(&made, || made.token.clone())
    }
}
