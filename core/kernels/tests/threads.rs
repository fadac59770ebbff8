//! The same bytes for any number of threads. Alone in its process, because the number of threads
//! belongs to that.

mod common;

use common::{Data, Random, dense_graph, partial_graph, random_graph, run};
use tetlo_kernels::{Network, set_threads, simd_paths, threads};

#[test]
fn any_number_of_threads() {
    for seed in 0..26 {
        let mut r = Random::new(seed);
        let batch = 1 + r.below(9);
        let graph = match seed {
            24 => dense_graph(20, 16, 8, 11),
            25 => dense_graph(16, 36, 12, 12),
            _ if seed.is_multiple_of(3) => partial_graph(&mut r),
            _ => random_graph(&mut r, batch).0,
        };
        let data = Data::random(&graph, &mut r, batch);
        for simd in simd_paths() {
            let network = Network::with_simd(graph.clone(), simd).unwrap();
            for evaluate in [false, true] {
                set_threads(1);
                let one = run(&network, &data, evaluate).bits();
                for many in [2, 3, 7] {
                    set_threads(many);
                    assert_eq!(threads(), many);
                    let bits = run(&network, &data, evaluate).bits();
                    assert!(bits == one, "seed {seed}, {simd}, {many} threads");
                }
            }
        }
    }
}
