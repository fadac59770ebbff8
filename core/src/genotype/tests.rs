use super::*;
use proptest::prelude::*;

const DARTS_V2: &str = "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), \
    ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], \
    normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), \
    ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], \
    reduce_concat=range(2, 6))";

#[test]
fn the_published_cell_round_trips() -> Result<()> {
    let genotype = Genotype::parse(DARTS_V2)?;
    assert_eq!(genotype.to_python(), DARTS_V2);
    assert_eq!(genotype.skip_count(), 2);
    let named = Genotype::parse(&format!("DARTS_V2 = {DARTS_V2}"))?;
    assert_eq!(named, genotype);
    assert_eq!(Genotype::from_json(&genotype.to_json())?, genotype);
    Ok(())
}

#[test]
fn the_string_of_nas_bench_201() -> Result<()> {
    let text =
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|none~1|skip_connect~2|";
    let genotype = Genotype::parse(&format!("{text}\n"))?;
    let cell = genotype.cell("cell").unwrap();
    let edges: Vec<_> = cell.edges.iter().map(|e| (&*e.operation, e.from, e.to)).collect();
    let expected = [
        ("nor_conv_3x3", 0, 1),
        ("nor_conv_3x3", 0, 2),
        ("avg_pool_3x3", 1, 2),
        ("skip_connect", 0, 3),
        ("none", 1, 3),
        ("skip_connect", 2, 3),
    ];
    assert_eq!(edges, expected);
    assert_eq!((cell.inputs, &*cell.concat), (1, &[3][..]));
    assert_eq!(genotype.skip_count(), 2);
    assert_eq!(genotype.to_python(), text);
    // A node between may have no input.
    assert_eq!(Genotype::parse("||+|a~1|")?.to_python(), "||+|a~1|");
    Ok(())
}

#[test]
fn triples_swap_their_order() -> Result<()> {
    let text =
        "Genotype(normal=[('sep_conv_3x3', 2, 0), ('skip_connect', 4, 2)], normal_concat=[2, 4])";
    let genotype = Genotype::parse(text)?;
    assert_eq!(genotype.cell("normal").unwrap().edges[1].from, 2);
    assert_eq!(genotype.cell("normal").unwrap().edges[1].to, 4);
    assert_eq!(genotype.to_python(), text);
    Ok(())
}

#[test]
fn errors_say_where() {
    for (text, part) in [
        ("", "empty"),
        ("Genotype(normal=[('sep', 0]", "expected `)` at character"),
        ("{\"normal\": [[\"sep\", 0]]}", "`normal_concat` is missing"),
        ("{\"normal\": [[\"sep\", 5]], \"normal_concat\": [2]}", "cannot take input from state 5"),
        ("{}", "no cell"),
        ("{\"arch\": 3}", "`arch` must be a text"),
        ("{\"arch\": \"|a~0|\", \"normal\": []}", "there is `normal` too"),
        ("|a~0|+|b~0|c~2|", "node 2 cannot take input from node 2 (character 13)"),
        ("|a~0|+|b~0|c1|", "expected `~` and the number of a node at character 13, found `|`"),
        ("|a~0|b", "expected `~` and the number of a node at character 6, found the end"),
        ("|a~0| |", "expected the name of an operation at character 5, found ` |`"),
        ("|a~x|", "expected the number of a node at character 3, found `x|`"),
        ("|a~0|+b~0|", "which begins a node's group at character 6"),
        ("|a~0|+||", "the last node, 2, has no input"),
        ("|a~99999999999999999999|", "expected the number of a node"),
        ("hello", "expected `Genotype`"),
        ("Genotype(normal_concat=range(0, 99999999))", "at most 1000"),
    ] {
        let error = Genotype::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn any_cell_round_trips(entries in prop::collection::vec((0usize..7, 0usize..100, 0usize..4), 0..12)) {
        const OPS: [&str; 7] = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "a", "b_1"];
        let edges = entries.iter().map(|(op, from, node)| {
            let to = node + 2;
            GenotypeEdge { operation: OPS[*op].into(), from: from % to, to }
        }).collect();
        let cell = GenotypeCell { inputs: 2, edges, concat: vec![2, 3, 5] };
        let genotype = Genotype::new([("normal".to_owned(), cell)]);
        prop_assert_eq!(&Genotype::parse(&genotype.to_python()).unwrap(), &genotype);
        prop_assert_eq!(&Genotype::parse(&genotype.to_json().to_string()).unwrap(), &genotype);
    }

    #[test]
    fn any_single_input_cell_round_trips(
        entries in prop::collection::vec((0usize..5, 0usize..100, 1usize..9), 1..20)
    ) {
        const OPS: [&str; 5] =
            ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"];
        let mut edges: Vec<GenotypeEdge> = entries
            .iter()
            .map(|(op, from, to)| GenotypeEdge {
                operation: OPS[*op].into(),
                from: from % to,
                to: *to,
            })
            .collect();
        edges.sort_by_key(|e| e.to);
        let genotype = Genotype::single_input(edges);
        let arch = genotype.to_arch().unwrap();
        prop_assert_eq!(&Genotype::parse(&arch).unwrap(), &genotype);
        prop_assert_eq!(&Genotype::parse(&genotype.to_python()).unwrap(), &genotype);
        prop_assert_eq!(genotype.to_json(), serde_json::json!({"arch": arch}));
        prop_assert_eq!(&Genotype::parse(&genotype.to_json().to_string()).unwrap(), &genotype);
    }

    #[test]
    fn noise_is_refused_with_a_reason_or_round_trips(text in ".{0,80}") {
        for text in [text.clone(), format!("Genotype({text}"), format!("|{text}")] {
            match Genotype::parse(&text) {
                Ok(genotype) => {
                    let json = genotype.to_json().to_string();
                    prop_assert_eq!(Genotype::parse(&json).unwrap(), genotype);
                }
                Err(e) => prop_assert!(!e.to_string().is_empty()),
            }
        }
    }
}
