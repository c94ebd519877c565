//! Percentiles of measured times, and times as numbers.

use std::time::Duration;

/// The smallest time that `percent` of all do not exceed; `None` when nothing was measured.
pub(super) fn percentile(times: impl IntoIterator<Item = Duration>, percent: usize) -> Option<Duration> {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100);
    times.get(rank.saturating_sub(1)).copied()
}

pub(super) fn percentile_ms(times: impl IntoIterator<Item = Duration>, percent: usize) -> Option<f64> {
    percentile(times, percent).map(|time| thousandths(time.as_secs_f64() * 1e3))
}

pub(super) fn median_ms(times: impl IntoIterator<Item = Duration>) -> Option<f64> {
    percentile_ms(times, 50)
}

/// Rounded to three places, which is all that is sure.
pub(super) fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times = |count: u64| (1..=count).rev().map(Duration::from_millis);
        assert_eq!(percentile_ms(times(100), 90), Some(90.0));
        assert_eq!((percentile_ms(times(5), 50), percentile_ms(times(5), 99)), (Some(3.0), Some(5.0)));
        assert_eq!((median_ms(times(2)), median_ms(times(1)), median_ms(times(0))), (Some(1.0), Some(1.0), None));
    }
}
