//! The census: a consumer group that never reads entries, for queries that Redis answers only for
//! groups. The lag of the group is the number of entries ever added, and an `XCLAIM` by the group
//! returns only entries that are still in the stream.

use redis::{Cmd, Pipeline, RedisError, aio::ConnectionLike};

use super::{codes::server_code, keys};

/// Creates the census of a stream. The group starts after every possible id, so it never reads, and
/// with `ENTRIESREAD 0`, so its lag counts every entry.
pub(super) fn create(stream: &str) -> Cmd {
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(stream).arg(keys::CENSUS);
    create.arg(format!("{0}-{0}", u64::MAX)).arg("ENTRIESREAD").arg(0);
    create
}

/// Returns the ids whose entries are in the stream, claimed or not. Reads no entries: the census
/// claims and immediately acknowledges them.
pub(super) async fn outstanding(
    connection: &mut impl ConnectionLike,
    stream: &str,
    ids: &[String],
) -> Result<Vec<String>, RedisError> {
    let mut claim = Pipeline::new();
    claim.cmd("XCLAIM").arg(stream).arg(keys::CENSUS).arg(keys::CENSUS);
    claim.arg(0).arg(ids).arg("FORCE").arg("JUSTID");
    claim.cmd("XACK").arg(stream).arg(keys::CENSUS).arg(ids).ignore();
    match claim.query_async(connection).await {
        Err(error) if server_code(&error).as_deref() == Some("NOGROUP") => {}
        answer => return answer.map(|(outstanding,)| outstanding),
    }
    if let Err(error) = create(stream).exec_async(connection).await {
        match server_code(&error).as_deref() {
            Some("BUSYGROUP") => {}
            // The stream does not exist, so it has no entries.
            Some("ERR") => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
    claim.query_async(connection).await.map(|(outstanding,)| outstanding)
}
