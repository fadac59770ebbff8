//! The order of things in a column, and their places: few crossings, short lines.

/// A line between neighbouring columns: position in the left column, position in the right one.
pub(super) type Link = (usize, usize);

/// Orders columns so that lines between neighbours cross little: barycentre sweeps (Sugiyama et al.
/// 1981), keeping the best order met. Returns each column's items in their new order; `links[i]`
/// joins items (by their original index) of columns i and i + 1.
pub(super) fn order(sizes: &[usize], links: &[Vec<Link>]) -> Vec<Vec<usize>> {
    let mut orders: Vec<Vec<usize>> = sizes.iter().map(|n| (0..*n).collect()).collect();
    let mut best = (crossings(&orders, links), orders.clone());
    for sweep in 0..12 {
        let last = sizes.len() - 1;
        let columns: Vec<usize> =
            if sweep % 2 == 0 { (1..=last).collect() } else { (0..last).rev().collect() };
        for column in columns {
            let neighbours: Vec<Link> = if sweep % 2 == 0 {
                links[column - 1].iter().map(|(l, r)| (*r, *l)).collect()
            } else {
                links[column].clone()
            };
            let other = &orders[if sweep % 2 == 0 { column - 1 } else { column + 1 }];
            let place = |item: usize| other.iter().position(|i| *i == item).unwrap_or(0) as f64;
            let own = orders[column].clone();
            let key = |item: usize| {
                let at: Vec<f64> = neighbours
                    .iter()
                    .filter(|(me, _)| *me == item)
                    .map(|(_, them)| place(*them))
                    .collect();
                if at.is_empty() {
                    own.iter().position(|i| *i == item).unwrap_or(0) as f64
                } else {
                    at.iter().sum::<f64>() / at.len() as f64
                }
            };
            let mut keyed: Vec<(f64, usize)> = own.iter().map(|i| (key(*i), *i)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            orders[column] = keyed.into_iter().map(|(_, item)| item).collect();
        }
        let now = crossings(&orders, links);
        if now < best.0 {
            best = (now, orders.clone());
        }
    }
    best.1
}

/// How many pairs of lines cross.
fn crossings(orders: &[Vec<usize>], links: &[Vec<Link>]) -> usize {
    let mut count = 0;
    for (column, links) in links.iter().enumerate() {
        let place = |column: usize, item: usize| orders[column].iter().position(|i| *i == item);
        let at: Vec<_> =
            links.iter().map(|(l, r)| (place(column, *l), place(column + 1, *r))).collect();
        for (i, a) in at.iter().enumerate() {
            count += at[i + 1..]
                .iter()
                .filter(|b| (a.0 < b.0 && a.1 > b.1) || (a.0 > b.0 && a.1 < b.1))
                .count();
        }
    }
    count
}

/// Places nearest to `wished` (least squares) that keep their order and the distances `apart`
/// between neighbours: isotonic regression by pooling adjacent violators.
pub(super) fn spread(wished: &[f64], apart: &[f64]) -> Vec<f64> {
    let mut offset = vec![0.0; wished.len()];
    for i in 1..wished.len() {
        offset[i] = offset[i - 1] + apart[i - 1];
    }
    let mut pools: Vec<(f64, usize)> = vec![]; // mean, size
    for (wish, offset) in wished.iter().zip(&offset) {
        let mut pool = (wish - offset, 1usize);
        while let Some(last) = pools.last().copied().filter(|last| last.0 > pool.0) {
            pools.pop();
            let size = last.1 + pool.1;
            pool = ((last.0 * last.1 as f64 + pool.0 * pool.1 as f64) / size as f64, size);
        }
        pools.push(pool);
    }
    let flat = pools.iter().flat_map(|(mean, size)| std::iter::repeat_n(*mean, *size));
    flat.zip(offset).map(|(place, offset)| place + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossed_lines_are_uncrossed() {
        // 0–1, 1–0 cross as they stand.
        let links = [vec![(0, 1), (1, 0)]];
        let orders = order(&[2, 2], &links);
        assert_eq!(crossings(&orders, &links), 0);
    }

    #[test]
    fn wishes_are_kept_or_shared() {
        assert_eq!(spread(&[0.0, 50.0], &[20.0]), [0.0, 50.0]);
        // Both want 10, 20 apart: 0 and 20.
        assert_eq!(spread(&[10.0, 10.0], &[20.0]), [0.0, 20.0]);
        assert_eq!(spread(&[30.0, 10.0, 100.0], &[10.0, 10.0]), [15.0, 25.0, 100.0]);
    }
}
