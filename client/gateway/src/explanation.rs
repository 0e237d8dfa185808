//! What is said to a person who asks why a path is here, or is not.
//!
//! Always holds: absence is decided as for any other request, so that an absent path is named to nobody; whatever comes
//! of it is one sentence. Leaves to others: finding records (`gateway_core`), HTTP (`routes`).

use std::sync::Arc;

use firn_base::{BundleId, ObjectKey};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::coordinators::BundleStanding;
use crate::download_places::ClientPlaces;
use crate::gateway_core::{GatewayCore, Use};
use crate::open_object::OpenObject;
use crate::serve_error::ServeError;

/// How a store path stands, as of a feed position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explanation {
    pub(crate) position: u64,
    pub(crate) standing: Standing,
}

/// How a store path stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The archive has it.
    Archived(Archived),
    /// The archive had it, and serves it no more.
    Withdrawn { reason: String },
    /// The archive does not have it.
    Absent,
    /// The archive has it, and not even its record can be read now.
    Unreadable { cause: String },
    /// It cannot be known now.
    Unsettled { cause: String },
}

/// A path that the archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archived {
    pub(crate) store_path: String,
    /// The archive's publishers who signed it, the most preferred first.
    pub(crate) publishers: Vec<String>,
    pub(crate) bundle: BundleId,
    /// None if no coordinator says it.
    pub(crate) bundle_standing: Option<BundleStanding>,
    /// Why its NAR cannot be read now, if so.
    pub(crate) unreadable: Option<String>,
}

impl GatewayCore {
    /// How the store path with this hash stands. What has to be decompressed for it takes one of `client`'s places.
    pub(crate) async fn explain(
        self: &Arc<Self>,
        hash: [u8; 20],
        client: Option<&ClientPlaces>,
    ) -> Explanation {
        let key = ObjectKey::store_path(hash);
        let standing = match self.archived(hash, client).await {
            Ok(archived) => Standing::Archived(archived),
            Err(ServeError::NotArchived(_)) => match self.withdrawal(&key) {
                Some(reason) => Standing::Withdrawn { reason },
                None => Standing::Absent,
            },
            Err(ServeError::Unreadable { cause, .. } | ServeError::Busy { why: cause }) => {
                Standing::Unreadable { cause }
            }
            Err(ServeError::Unsettled { cause }) => Standing::Unsettled { cause },
        };
        Explanation { position: self.feed_position(), standing }
    }

    async fn archived(
        self: &Arc<Self>,
        hash: [u8; 20],
        client: Option<&ClientPlaces>,
    ) -> Result<Archived, ServeError> {
        let (info, bundle) = self.path_info(hash).await?;
        let fingerprint = info.fingerprint();
        let governance = self.governance();
        let signers =
            governance.publishers.iter().filter(|key| key.has_signed(&fingerprint, &info.signatures));
        let unreadable = match self.nar(hash, info.nar_hash).await {
            Ok(nar) => self.read_first_byte(&nar, client).await.err().map(ServeError::cause),
            Err(error) => Some(error.cause()),
        };
        Ok(Archived {
            store_path: info.store_path.to_string(),
            publishers: signers.map(|key| key.name().to_owned()).collect(),
            bundle,
            bundle_standing: self.index().standing(bundle).await.ok(),
            unreadable,
        })
    }

    /// Reads as much of a NAR as must be read for its first byte.
    async fn read_first_byte(
        &self,
        nar: &OpenObject,
        client: Option<&ClientPlaces>,
    ) -> Result<(), ServeError> {
        let first = 0..nar.bytes().min(1);
        let (mut stream, _place) = self.begin(nar, first, None, Use::LookedAt, client).await?;
        stream.next().await.transpose()?;
        Ok(())
    }
}

impl Explanation {
    /// One sentence without a full stop, as for any refusal.
    pub(crate) fn sentence(&self) -> String {
        match &self.standing {
            Standing::Archived(archived) => archived.sentence(),
            Standing::Withdrawn { reason } => {
                format!("this store path was withdrawn from the archive for this reason: {reason}")
            }
            Standing::Absent => {
                format!(
                    "this store path is not archived, as of position {} of the archive's feed",
                    self.position
                )
            }
            Standing::Unreadable { cause } => {
                format!("this store path is archived, and cannot be read now: {cause}")
            }
            Standing::Unsettled { cause } => {
                format!("whether this store path is archived cannot be settled now: {cause}; try again later")
            }
        }
    }

    /// The same as JSON.
    pub(crate) fn to_json(&self) -> String {
        let state = match &self.standing {
            Standing::Archived(Archived { unreadable: None, .. }) => "archived",
            Standing::Archived(_) | Standing::Unreadable { .. } => "unreadable",
            Standing::Withdrawn { .. } => "withdrawn",
            Standing::Absent => "absent",
            Standing::Unsettled { .. } => "unsettled",
        };
        let mut json = json!({ "state": state, "sentence": self.sentence(), "feed_position": self.position });
        match &self.standing {
            Standing::Archived(archived) => archived.add_to(&mut json),
            Standing::Withdrawn { reason } => json["reason"] = reason.as_str().into(),
            Standing::Unreadable { cause } | Standing::Unsettled { cause } => {
                json["cause"] = cause.as_str().into()
            }
            Standing::Absent => {}
        }
        json.to_string()
    }
}

impl Archived {
    fn sentence(&self) -> String {
        let mut sentence = format!("{} is archived", self.store_path);
        if let Some(bundle) = &self.bundle_standing {
            sentence += &format!(" since {}", bundle.committed_at);
        }
        if !self.publishers.is_empty() {
            sentence += &format!(", signed by {}", self.publishers.join(" and "));
        }
        sentence += &format!(", in bundle {}", self.bundle);
        if let Some(BundleStanding { k, n, held, online, .. }) = &self.bundle_standing {
            sentence += &format!(
                ": nodes hold {held} of its {n} shards, {online} of these are online, and any {k} restore it"
            );
        }
        if let Some(cause) = &self.unreadable {
            sentence += &format!("; it cannot be read now: {cause}");
        }
        sentence
    }

    fn add_to(&self, json: &mut Value) {
        json["store_path"] = self.store_path.as_str().into();
        json["publishers"] = self.publishers.clone().into();
        json["bundle"] = self.bundle.to_string().into();
        if let Some(bundle) = &self.bundle_standing {
            json["since"] = bundle.committed_at.to_string().into();
            json["shards"] = json!({ "needed": bundle.k, "wanted": bundle.n, "held": bundle.held, "online": bundle.online });
        }
        if let Some(cause) = &self.unreadable {
            json["cause"] = cause.as_str().into();
        }
    }
}
