"""Fictional knowledge: passages about a world that does not exist, and probes of what they say.

    draws, names            seeded draws; names nobody bears
    template, kinds         the language of `grammar/*.toml`, and the grammar of each kind
    world, passage          linked subjects; ten texts, facts and fifteen probes for each
    lint, suite, quality    what a split must hold to, and how it reads
    product, background     the published folder; splits of any size; background text
    private                 a split from a secret seed, committed to beforehand
    source                  files in the schema of `kaist-ai/fictional-knowledge`, and their lint
    tokens                  the boundary between prefix and target under three makes of tokenizer

The generator itself (draws to passage) needs nothing but Python.
"""
