//! Announcements as Redis stores them: JSON with the time of the last renewal.

use serde::{Deserialize, Serialize};

use crate::{Announcement, BrokerError};

/// An announcement and the time of its renewal.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAnnouncement {
    #[serde(flatten)]
    pub(super) announcement: Announcement,
    /// Redis's clock at the renewal, in milliseconds.
    pub(super) seen: u64,
}

impl StoredAnnouncement {
    /// The JSON of an announcement renewed now.
    pub(super) fn json(announcement: &Announcement, now: u64) -> Result<String, BrokerError> {
        let stored = Self { announcement: announcement.clone(), seen: now };
        serde_json::to_string(&stored).map_err(BrokerError::refused)
    }
}
