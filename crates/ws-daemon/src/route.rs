//! Which peer gets the next request. Pure: the candidates and the cursor come in, the choice goes out.

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
}
