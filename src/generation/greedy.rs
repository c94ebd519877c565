//! Greedy search: the likeliest token, the lowest id on a tie.

/// The index of the largest score. `None` for an empty slice, or when a score is NaN or none is above −∞.
pub(super) fn argmax(scores: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (index, &score) in scores.iter().enumerate() {
        if score.is_nan() {
            return None;
        }
        if score > best.map_or(f32::NEG_INFINITY, |(_, highest)| highest) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::argmax;

    #[test]
    fn the_lowest_id_wins_a_tie() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), Some(1));
    }

    #[test]
    fn scores_without_a_winner_have_none() {
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[1.0, f32::NAN]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), None);
    }
}
