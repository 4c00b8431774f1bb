//! `pgseal serve`, and what it has in common with `pgseal token`.

use clap::Args;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::service::{Service, drills, outbox, timetables};
use crate::api::{self, Confirmation, Parts, Rules, Signature, Target, TokenRules, Tokens};
use crate::config::{
    AlgorithmArg, ApiArgs, ConfigError, ConfirmArg, JwtArgs, NotifyArgs, QueueArgs, ScheduleArgs,
};
use crate::model::connection::Connection;
use crate::model::target::TargetName;

const AFTER_HELP: &str = "\
Examples:
  pgseal serve                                 on 127.0.0.1:8000
  pgseal serve --listen 0.0.0.0:8000           in a container, behind something that speaks TLS
  pgseal serve --check                         for a health check: exit code 0 if the API on this machine answers
  curl -H \"Authorization: Bearer $(pgseal token --subject me)\" http://127.0.0.1:8000/api/admin/backups

It enqueues and never dumps: pgseal worker does the work. /api/docs shows every route. SIGTERM or Ctrl-C: it takes no new \
request and finishes those at hand. Needs JWT_SECRET or a public key, REDIS_URL, DATABASE_URL, a store that is named, and a \
catalog (pgseal migrate).";

/// Serve the API for administrators
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ServeArgs {
    /// Say whether the API of this machine answers, and serve nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    tokens: JwtArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    notify: NotifyArgs,
}

impl ServeArgs {
    pub(super) async fn run(
        self,
        context: &Context,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        if self.check {
            let address = api::check(self.api.listen).await?;
            return context.output.print(&Listening { address }, || {
                format!("The API on http://{address} answers")
            });
        }
        context.settings.require_named_store()?;
        let tokens = Tokens::new(rules(&self.tokens), self.tokens.key()?.expose_secret())?;
        let configured = context.settings.targets()?;
        let named = |(name, connection): (TargetName, Connection)| {
            let confirmed_by = configured.confirmed_by(&name)?;
            let target = Target {
                database: connection.database().to_owned(),
                confirmed_by,
                connection,
            };
            Ok((name, target))
        };
        let targets = configured.connections()?.into_iter().map(named);
        let targets = targets.collect::<Result<_, ConfigError>>()?;
        let service = Service::open(&self.queue).await?;
        let outbox = outbox(&service.dispatch, &self.notify, &configured, context)?;
        let has_channels = outbox.notifier.named().next().is_some();
        let parts = Parts {
            outbox: has_channels.then_some(outbox),
            dispatch: service.dispatch,
            vault: context.settings.vault().await?,
            targets,
            timetables: timetables(&configured, &self.schedule)?,
            drills: drills(&configured, &self.schedule)?,
            tokens,
            rules: Rules {
                confirmation: match self.api.restore_confirm {
                    ConfirmArg::Optional => Confirmation::Optional,
                    ConfirmArg::Required => Confirmation::Required,
                },
                origins: self.api.cors_origins.clone(),
                requests_per_second: self.api.requests_per_second,
                clock: context.clock,
            },
        };
        let listener = TcpListener::bind(self.api.listen).await;
        let listener = listener.map_err(|source| ListenError {
            address: self.api.listen,
            source,
        })?;
        let address = listener.local_addr()?;
        context.output.print(&Listening { address }, || {
            format!("Listening on http://{address}; the API is shown at http://{address}/api/docs")
        })?;
        api::serve(listener, parts, stop).await;
        tracing::info!("API ended");
        Ok(())
    }
}

#[derive(serde::Serialize)]
struct Listening {
    address: std::net::SocketAddr,
}

/// Nothing can be heard there.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}\nhint: BACKUP_LISTEN names another address or port")]
struct ListenError {
    address: std::net::SocketAddr,
    #[source]
    source: std::io::Error,
}

/// What the settings say of tokens.
pub(super) fn rules(tokens: &JwtArgs) -> TokenRules {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    TokenRules {
        signature: match tokens.jwt_algorithm {
            AlgorithmArg::Hs256 => Signature::Hs256,
            AlgorithmArg::Rs256 => Signature::Rs256,
            AlgorithmArg::Es256 => Signature::Es256,
            AlgorithmArg::EdDsa => Signature::EdDsa,
        },
        issuer: set(&tokens.jwt_issuer),
        audience: set(&tokens.jwt_audience),
        role_claim: set(&tokens.jwt_role_claim),
        key_id: set(&tokens.jwt_key_id),
    }
}
