//! The slots of a Redis Cluster, and the nodes that own them.

use redis::{ErrorKind, RedisError, RedisResult, Value, aio::ConnectionLike};

/// The number of slots of every cluster.
const SLOTS: u16 = 16384;
/// The bits of the number of a partition.
const BITS: u32 = 6;
/// The most partitions of a cluster.
pub(super) const MOST_PARTITIONS: u16 = 1 << BITS;

/// Host and port of a server.
pub(super) type Node = (String, u16);

/// The hash tag of a partition: the first number whose slot lies in the part of the slots that belongs to
/// the partition. Reversing the bits of its number gives each partition a part in the middle of the
/// largest gap between those before it, so that any number of partitions spreads over the masters.
pub(super) fn tag_of(partition: u16) -> u32 {
    let part = partition.reverse_bits() >> (u16::BITS - BITS);
    let is_in_part = |tag: &u32| slot_of(&tag.to_string()) / (SLOTS / MOST_PARTITIONS) == part;
    (0..=u32::from(SLOTS)).find(is_in_part).unwrap_or_default()
}

/// The slot of a partition.
pub(super) fn slot_of_partition(partition: u16) -> u16 {
    slot_of(&tag_of(partition).to_string())
}

/// The slot of all keys with this hash tag.
fn slot_of(tag: &str) -> u16 {
    // CRC16/XMODEM.
    let mut crc = 0_u16;
    for byte in tag.bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % SLOTS
}

/// Asks a node, which was reached at `host`, for the owner of a slot.
pub(super) async fn ask(
    node: &mut impl ConnectionLike,
    host: &str,
    slot: u16,
) -> RedisResult<Node> {
    match redis::cmd("CLUSTER").arg("SLOTS").query_async::<Vec<Vec<Value>>>(node).await {
        Ok(ranges) => owner(ranges, host, slot)
            .ok_or_else(|| (ErrorKind::Io, "no node of the cluster has this partition").into()),
        Err(error) if is_no_cluster(&error) => {
            let reason = "the URL of Redis begins with redis+cluster, but Redis is no cluster";
            Err((ErrorKind::InvalidClientConfig, reason).into())
        }
        Err(error) => Err(error),
    }
}

/// The owner of a slot among ranges of slots: first slot, last slot, owner, replicas. A node that does
/// not know its own host names none.
fn owner(ranges: Vec<Vec<Value>>, host: &str, slot: u16) -> Option<Node> {
    for range in ranges {
        let mut range = range.into_iter();
        let first: u16 = redis::from_redis_value(range.next()?).ok()?;
        let last: u16 = redis::from_redis_value(range.next()?).ok()?;
        if !(first..=last).contains(&slot) {
            continue;
        }
        let Value::Array(owner) = range.next()? else { return None };
        let mut owner = owner.into_iter();
        let named: Option<String> = redis::from_redis_value(owner.next()?).ok()?;
        let port: u16 = redis::from_redis_value(owner.next()?).ok()?;
        let named = named.filter(|named| !named.is_empty() && named != "?");
        return Some((named.unwrap_or_else(|| host.to_owned()), port));
    }
    None
}

fn is_no_cluster(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("cluster support disabled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, host: Value) -> Vec<Value> {
        let owner = Value::Array(vec![host, Value::Int(7000), Value::SimpleString("id".into())]);
        vec![Value::Int(first), Value::Int(last), owner]
    }

    #[test]
    fn the_slot_of_a_tag_is_that_of_redis() {
        // As `CLUSTER KEYSLOT` answers.
        for (tag, slot) in [("", 0), ("0", 13907), ("1", 9842), ("2", 5649), ("123456789", 12739)] {
            assert_eq!(slot_of(tag), slot, "{tag}");
        }
    }

    #[test]
    fn partitions_spread_over_the_masters() {
        let tags: Vec<u32> = (0..8).map(tag_of).collect();
        assert_eq!(tags, [10, 12, 11, 13, 69, 173, 68, 172], "the names of keys must not change");
        for masters in 2..=8 {
            let mut of_master = vec![0; masters];
            for partition in 0..4 * masters {
                let slot = usize::from(slot_of_partition(u16::try_from(partition).unwrap()));
                of_master[slot * masters / usize::from(SLOTS)] += 1;
            }
            assert!(of_master.iter().all(|count| (2..=5).contains(count)), "{of_master:?}");
        }
    }

    #[test]
    fn the_owner_of_a_slot_is_found_also_if_it_does_not_know_its_host() {
        let ranges = || {
            let host = Value::BulkString("a".into());
            vec![range(0, 99, host), range(100, 200, Value::Nil)]
        };
        assert_eq!(owner(ranges(), "seed", 99), Some(("a".to_owned(), 7000)));
        assert_eq!(owner(ranges(), "seed", 100), Some(("seed".to_owned(), 7000)));
        assert_eq!(owner(ranges(), "seed", 201), None);
        assert_eq!(owner(vec![vec![Value::Int(0)]], "seed", 0), None, "junk names no owner");
    }
}
