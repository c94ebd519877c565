//! Times on the command line: a number of seconds, with or without a fraction.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// From a millisecond to a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(Self(Duration::from_secs_f64(seconds))),
            _ => Err("must be a number of seconds from 0.001 to 86400"),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_secs_f64().fmt(formatter)
    }
}

/// As [`Seconds`], or 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecondsOrNever(pub(super) Duration);

impl FromStr for SecondsOrNever {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse() == Ok(0.0) {
            return Ok(Self(Duration::ZERO));
        }
        let seconds: Seconds = text.parse().map_err(|_| "must be a number of seconds from 0.001 to 86400, or 0")?;
        Ok(Self(seconds.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_go_from_a_millisecond_to_a_day_and_print_as_they_are_typed() {
        for text in ["0.001", "0.5", "1", "180", "86400"] {
            assert_eq!(text.parse::<Seconds>().unwrap().to_string(), text);
        }
        for text in ["0", "-1", "0.0001", "86401", "NaN", "inf", "1s", ""] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
        assert_eq!("0".parse::<SecondsOrNever>().unwrap().0, Duration::ZERO);
        assert!("-0.5".parse::<SecondsOrNever>().is_err());
    }
}
