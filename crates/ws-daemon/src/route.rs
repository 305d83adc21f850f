//! Which peer gets the next request. Pure: the candidates and the cursor come in, the choice goes out.

/// What a peer can do at once if it has not said: the default of ours.
pub const USUAL_CAPACITY: u64 = 256;

/// The first candidate behind the cursor, in order of arrival, and around again.
///
/// `arrivals` are the candidates' numbers in ascending order; `last` is the number that was chosen last, whether or not it is
/// still among them. `None` if there are none.
#[must_use]
pub fn round_robin(arrivals: &[u64], last: Option<u64>) -> Option<usize> {
    let next = last.map_or(0, |last| arrivals.partition_point(|arrival| *arrival <= last));
    match arrivals.len() {
        0 => None,
        length => Some(next % length),
    }
}

/// The candidate with the least in flight for its capacity; of several, the next in turn. `loads` are pairs of what is in flight
/// and how much the peer does at once, in the order of `arrivals`, which are as in [`round_robin`].
#[must_use]
pub fn least_busy(arrivals: &[u64], loads: &[(usize, Option<u64>)], last: Option<u64>) -> Option<usize> {
    let first = round_robin(arrivals, last)?;
    let turn = (first..loads.len()).chain(0..first.min(loads.len()));
    // Fractions are compared by multiplying crosswise: no rounding makes two peers alike that are not.
    let load = |index: usize| {
        let (in_flight, capacity) = loads[index];
        (in_flight as u128, u128::from(capacity.unwrap_or(USUAL_CAPACITY).max(1)))
    };
    turn.reduce(|best, other| {
        let ((busy, of), (other_busy, other_of)) = (load(best), load(other));
        if other_busy * of < busy * other_of { other } else { best }
    })
}

/// The candidate that belongs to `key`, by rendezvous hashing: when a peer comes or goes, only the keys of that peer move. The
/// same on every daemon and after every restart.
#[must_use]
pub fn sticky<'a>(key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<usize> {
    let weighed = candidates.enumerate().map(|(index, candidate)| (weight(key, candidate), index));
    weighed.max().map(|(_, index)| index)
}

/// FNV-1a over both, and the last step of SplitMix64 to spread it: the names of peers differ in few bits.
fn weight(key: &str, candidate: &str) -> u64 {
    let bytes = key.bytes().chain([0xff]).chain(candidate.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_turn_and_nobody_twice_because_another_left() {
        let table = [
            (&[][..], None, None),
            (&[3, 5, 9], None, Some(0)),
            (&[3, 5, 9], Some(3), Some(1)),
            (&[3, 5, 9], Some(9), Some(0)),
            (&[3, 9], Some(5), Some(1)),
            (&[5, 9], Some(3), Some(0)),
            (&[3, 5], Some(9), Some(0)),
        ];
        for (arrivals, last, expected) in table {
            assert_eq!(round_robin(arrivals, last), expected, "{arrivals:?} {last:?}");
        }
    }

    #[test]
    fn the_least_busy_is_so_by_its_capacity_and_in_turn_among_equals() {
        let table = [
            (&[][..], None, None),
            (&[(0, Some(4)), (0, Some(4))], Some(1), Some(1)),
            (&[(0, Some(4)), (0, Some(4))], Some(2), Some(0)),
            (&[(2, Some(4)), (3, Some(8))], None, Some(1)),
            (&[(1, Some(1)), (200, None)], None, Some(1)),
            (&[(1, Some(0)), (0, Some(0))], None, Some(1)),
        ];
        for (loads, last, expected) in table {
            let arrivals: Vec<u64> = (1..=loads.len() as u64).collect();
            assert_eq!(least_busy(&arrivals, loads, last), expected, "{loads:?}");
        }
    }

    #[test]
    fn a_key_stays_with_its_peer_and_only_the_keys_of_one_that_left_move() {
        let peers: Vec<String> = (0..8).map(|number| format!("web-{number}")).collect();
        let names = || peers.iter().map(String::as_str);
        let mut shares = [0; 8];
        for key in (0..8000).map(|number| number.to_string()) {
            let chosen = sticky(&key, names()).expect("there are some");
            shares[chosen] += 1;
            let fewer: Vec<&str> = names().filter(|name| *name != "web-3").collect();
            let after = sticky(&key, fewer.iter().copied()).expect("there are some");
            assert!(chosen == 3 || fewer[after] == peers[chosen], "{key} has moved");
        }
        assert!(shares.iter().all(|share| (800..1200).contains(share)), "{shares:?}");
        assert_eq!(sticky("x", [].into_iter()), None);
    }
}
