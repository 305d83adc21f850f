//! How often each address connects and fails: a bounded table of rates. One address of IPv6 is a /64, the least that a network hands
//! out; whoever has one has all of its addresses. It never looks at what is said on a connection.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::Limits;
use crate::rate::{Gcra, GcraState};

/// Addresses that are remembered; beyond that, the one that was not heard of for longest is forgotten.
const ADDRESSES: usize = 16_384;

/// What an address may do at once, in seconds of its rate.
const BURST_SECONDS: u32 = 16;

/// The high bits of an IPv6 address that tell one network from another.
const NETWORK: u128 = !0 << 64;

/// The table. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Addresses {
    table: Arc<Mutex<Table>>,
    most: usize,
}

#[derive(Debug)]
struct Table {
    rates: Rates,
    known: HashMap<IpAddr, Known>,
    /// The known ones by when they were last heard of.
    by_turn: BTreeMap<u64, IpAddr>,
    turn: u64,
}

/// How often an address may connect, and fail.
#[derive(Debug, Clone, Copy)]
struct Rates {
    connections: Gcra,
    failures: Gcra,
}

#[derive(Debug, Default)]
struct Known {
    turn: u64,
    connections: GcraState,
    failures: GcraState,
}

/// Why a connection is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// Its address connects too often.
    TooFast,
    /// Too much has failed of what came from its address.
    TooManyFailures,
}

impl Addresses {
    /// An empty table with the rates of `limits`.
    pub fn new(limits: &Limits) -> Self {
        let table = Table { rates: Rates::of(limits), known: HashMap::new(), by_turn: BTreeMap::new(), turn: 0 };
        Self { table: Arc::new(Mutex::new(table)), most: ADDRESSES }
    }

    /// From here on these are the rates; what is known of addresses stays.
    pub fn set(&self, limits: &Limits) {
        self.table().rates = Rates::of(limits);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection of `address`, which is not a mapped one.
    ///
    /// # Errors
    /// Why it is one too many.
    pub fn arrive(&self, address: IpAddr, now: Instant) -> Result<(), TurnedAway> {
        let mut table = self.table();
        let Rates { connections, failures } = table.rates;
        let known = table.of(address, self.most);
        failures.check(&known.failures, now).map_err(|_| TurnedAway::TooManyFailures)?;
        connections.allow(&mut known.connections, now).map_err(|_| TurnedAway::TooFast)
    }

    /// No link came of a connection of `address`.
    pub fn fail(&self, address: IpAddr, now: Instant) {
        let mut table = self.table();
        let failures = table.rates.failures;
        // Beyond the rate nothing comes in any more, except for what was in already.
        let _ = failures.allow(&mut table.of(address, self.most).failures, now);
    }
}

impl Rates {
    fn of(limits: &Limits) -> Self {
        let rate = |per_second: usize| {
            let per_second = u32::try_from(per_second).unwrap_or(u32::MAX);
            Gcra::new(per_second, per_second.saturating_mul(BURST_SECONDS))
        };
        Self { connections: rate(limits.address_connections), failures: rate(limits.address_failures) }
    }
}

impl Table {
    /// What is known of an address, of which something was heard just now.
    fn of(&mut self, address: IpAddr, most: usize) -> &mut Known {
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        };
        let Self { known, by_turn, turn, .. } = self;
        *turn += 1;
        if known.len() >= most
            && !known.contains_key(&address)
            && let Some((_, stalest)) = by_turn.pop_first()
        {
            known.remove(&stalest);
        }
        let found = known.entry(address).or_default();
        by_turn.remove(&found.turn);
        by_turn.insert(*turn, address);
        found.turn = *turn;
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// At one a second each.
    fn addresses(most: usize) -> Addresses {
        let rate = Gcra::new(1, BURST_SECONDS);
        let rates = Rates { connections: rate, failures: rate };
        let table = Table { rates, known: HashMap::new(), by_turn: BTreeMap::new(), turn: 0 };
        Addresses { table: Arc::new(Mutex::new(table)), most }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn arrivals(addresses: &Addresses, address: &str, now: Instant) -> usize {
        (0..100).filter(|_| addresses.arrive(ip(address), now).is_ok()).count()
    }

    #[test]
    fn each_address_has_its_own_burst_and_a_whole_64_is_one() {
        let (addresses, now) = (addresses(8), Instant::now());
        assert_eq!(arrivals(&addresses, "192.0.2.1", now), 16);
        assert_eq!(addresses.arrive(ip("192.0.2.1"), now), Err(TurnedAway::TooFast));
        assert_eq!(arrivals(&addresses, "192.0.2.2", now), 16);
        assert_eq!(arrivals(&addresses, "2001:db8::1", now), 16);
        assert_eq!(arrivals(&addresses, "2001:db8::ffff:1", now), 0);
        assert_eq!(arrivals(&addresses, "2001:db8:0:1::1", now), 16);
        assert_eq!(arrivals(&addresses, "192.0.2.1", now + Duration::from_secs(3)), 3);
    }

    #[test]
    fn failures_close_the_door_for_a_while_and_cost_only_what_failed() {
        let (addresses, now) = (addresses(8), Instant::now());
        for _ in 0..100 {
            addresses.fail(ip("192.0.2.1"), now);
        }
        assert_eq!(addresses.arrive(ip("192.0.2.1"), now), Err(TurnedAway::TooManyFailures));
        assert_eq!(addresses.arrive(ip("192.0.2.2"), now), Ok(()));
        // A hundred at once have cost no more than the burst: it opens again after one interval, not after a hundred.
        assert_eq!(addresses.arrive(ip("192.0.2.1"), now + Duration::from_secs(1)), Ok(()));
        addresses.fail(ip("192.0.2.1"), now + Duration::from_secs(1));
        let again = addresses.arrive(ip("192.0.2.1"), now + Duration::from_secs(1));
        assert_eq!(again, Err(TurnedAway::TooManyFailures));
    }

    #[test]
    fn the_stalest_is_forgotten_and_both_tables_stay_within_the_bound() {
        let (addresses, now) = (addresses(3), Instant::now());
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert_eq!(arrivals(&addresses, address, now), 16);
        }
        assert_eq!(arrivals(&addresses, "192.0.2.1", now), 0, "heard of again");
        assert_eq!(arrivals(&addresses, "192.0.2.4", now), 16);
        assert_eq!(arrivals(&addresses, "192.0.2.1", now), 0, "still remembered");
        assert_eq!(arrivals(&addresses, "192.0.2.2", now), 16, "it was the stalest, and is new again");
        for number in 0..1000_u32 {
            assert_eq!(addresses.arrive(IpAddr::V4(number.into()), now), Ok(()));
        }
        let table = addresses.table();
        assert_eq!((table.known.len(), table.by_turn.len()), (3, 3));
        assert!(table.by_turn.iter().all(|(turn, address)| table.known[address].turn == *turn));
    }
}
