//! The operations of the spaces. Parameter names are those of the authors' modules.

mod dil_conv;
mod none;
mod nor_conv;
mod pool;
mod sep_conv;
mod skip_connect;

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tetlo_core::kinds::Operation;
    use tetlo_core::registry;
    use tetlo_core::space::{Recipe, Site, Step};

    fn recipe(name: &str, stride: usize, affine: bool) -> Recipe {
        let operation = registry::build::<dyn Operation>(name, &Value::Null).unwrap();
        operation.recipe(Site { channels: 8, stride, affine })
    }

    fn chain(name: &str, stride: usize, affine: bool) -> Vec<Step> {
        match recipe(name, stride, affine) {
            Recipe::Chain(steps) => steps,
            Recipe::Zero => panic!("{name} is zero"),
        }
    }

    fn depthwise(name: &str, kernel: usize, stride: usize, dilation: usize) -> Step {
        Step::Depthwise { name: name.into(), kernel, stride, dilation }
    }

    fn pointwise(name: &str) -> Step {
        Step::Pointwise { name: name.into(), out: 8, stride: 1 }
    }

    fn batch_norm(name: &str, affine: bool) -> Step {
        Step::BatchNorm { name: name.into(), affine }
    }

    #[test]
    fn none_and_identity() {
        assert_eq!(recipe("none", 1, false), Recipe::Zero);
        assert_eq!(recipe("none", 2, true), Recipe::Zero);
        assert_eq!(chain("skip_connect", 1, true), []);
    }

    #[test]
    fn a_skip_of_stride_two_is_a_factorised_reduction() {
        let reduce = Step::FactorizedReduce { even: "conv_1".into(), odd: "conv_2".into(), out: 8 };
        let expected = [Step::Relu, reduce, batch_norm("bn", false)];
        assert_eq!(chain("skip_connect", 2, false), expected);
    }

    #[test]
    fn pools_are_normalised_in_the_search_alone() {
        for stride in [1, 2] {
            for (name, pool) in [
                ("max_pool_3x3", Step::MaxPool { stride }),
                ("avg_pool_3x3", Step::AvgPool { stride }),
            ] {
                let search = [pool.clone(), batch_norm("1", false)];
                assert_eq!(chain(name, stride, false), search);
                assert_eq!(chain(name, stride, true), [pool]);
            }
        }
    }

    #[test]
    fn pools_can_stay_bare() {
        let options = serde_json::json!({"normalise": false});
        let operation = registry::build::<dyn Operation>("avg_pool_3x3", &options).unwrap();
        let site = Site { channels: 8, stride: 1, affine: false };
        assert_eq!(operation.recipe(site), Recipe::Chain(vec![Step::AvgPool { stride: 1 }]));
    }

    #[test]
    fn plain_convolutions() {
        let dense = Step::Dense { name: "op.1".into(), out: 8, kernel: 3, stride: 2 };
        assert_eq!(chain("nor_conv_3x3", 2, true), [Step::Relu, dense, batch_norm("op.2", true)]);
        let expected = [Step::Relu, pointwise("op.1"), batch_norm("op.2", false)];
        assert_eq!(chain("nor_conv_1x1", 1, false), expected);
    }

    #[test]
    fn separable_convolutions_stride_first() {
        for (name, kernel) in [("sep_conv_3x3", 3), ("sep_conv_5x5", 5)] {
            let expected = [
                Step::Relu,
                depthwise("op.1", kernel, 2, 1),
                pointwise("op.2"),
                batch_norm("op.3", true),
                Step::Relu,
                depthwise("op.5", kernel, 1, 1),
                pointwise("op.6"),
                batch_norm("op.7", true),
            ];
            assert_eq!(chain(name, 2, true), expected);
        }
    }

    #[test]
    fn dilated_convolutions_are_single() {
        for (name, kernel) in [("dil_conv_3x3", 3), ("dil_conv_5x5", 5)] {
            let expected = [
                Step::Relu,
                depthwise("op.1", kernel, 2, 2),
                pointwise("op.2"),
                batch_norm("op.3", false),
            ];
            assert_eq!(chain(name, 2, false), expected);
        }
    }
}
