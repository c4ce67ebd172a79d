//! Medians, percentiles and spreads of samples.

/// The middle value, or the mean of the middle two. `None` without samples.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return sorted.get(middle).copied();
    }
    let below = sorted.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(*below, *sorted.get(middle)?))
}

/// The smallest of the ascending values that at least `permille` in a thousand do
/// not exceed (nearest rank). `None` without values.
pub(crate) fn permille(ascending: &[u64], permille: usize) -> Option<u64> {
    let rank = (ascending.len() * permille).div_ceil(1000).max(1);
    ascending.get(rank - 1).copied()
}

/// How far the typical sample is from the median, relative to it: the median of
/// the distances. One wild sample does not move it.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    Some(median(&distances)? / middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[9.0, 1.0, 4.0, 2.0]), Some(3.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(permille(&hundred, 500), Some(50));
        assert_eq!(permille(&hundred, 990), Some(99));
        assert_eq!(permille(&hundred, 999), Some(100));
        assert_eq!(permille(&[3, 8], 500), Some(3));
        assert_eq!(permille(&[3, 8], 990), Some(8));
        assert_eq!(permille(&[3], 0), Some(3));
        assert_eq!(permille(&[], 500), None);
    }

    #[test]
    fn one_wild_sample_does_not_widen_the_spread() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[10.0, 10.0, 10.0]), Some(0.0));
        assert_eq!(spread(&[10.0, 11.0, 9.0, 10.0, 500.0]), Some(0.1));
    }
}
