//! The table of diagnostic codes: number, title, explanation, exit code.
//! A number is never used again for another mistake. Nothing here decides when a code is reported.

/// How much a diagnostic weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The command does what was asked, but that is probably not what was meant.
    Warning,
    /// The command does not do what was asked.
    Error,
}

/// The exit codes of `moec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// The input is wrong.
    Input = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The environment lacks something.
    Environment = 3,
    /// A verification failed.
    Verification = 4,
    /// A bug in moec.
    Bug = 101,
}

/// Declares the codes as one table, so that none can lack its title or its explanation.
macro_rules! codes {
    ($($name:ident = $number:literal, $exit:ident, $title:literal, $explanation:literal;)+) => {
        /// Every kind of mistake that moec reports, by its stable number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $title] $name = $number,)+
        }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// A few words that name the mistake.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)+ }
            }

            /// A paragraph for people: what it means, why it is an error, what to do.
            pub fn explanation(self) -> &'static str {
                match self { $(Code::$name => $explanation,)+ }
            }

            /// What a command that reports it exits with; `Exit::Ok` for a warning.
            pub fn exit(self) -> Exit {
                match self { $(Code::$name => Exit::$exit,)+ }
            }
        }
    };
}

impl Code {
    /// The code as people write it: `MOE0101`.
    pub fn id(self) -> String {
        format!("MOE{:04}", self as u16)
    }

    /// A warning where a command that reports it still ends well.
    pub fn severity(self) -> Severity {
        if self.exit() == Exit::Ok { Severity::Warning } else { Severity::Error }
    }

    /// Reads `MOE0101`, `moe101` or `101`.
    pub fn from_id(id: &str) -> Option<Code> {
        let digits = match id.get(..3) {
            Some(prefix) if prefix.eq_ignore_ascii_case("moe") => &id[3..],
            Some(_) | None => id,
        };
        let number: u16 = digits.parse().ok()?;
        Code::ALL.iter().copied().find(|code| *code as u16 == number)
    }
}

codes! {
    // 00xx: the file.
    Unreadable = 1, Input, "the input cannot be read",
        "The file that was named does not exist, is not a file, or may not be read. `-` reads standard input.";
    TooLarge = 2, Input, "the input is too large",
        "A spec is at most 1 MiB. Real specs are a few kilobytes; a larger file is nearly always a checkpoint or a \
         model given in the spec's place. The size is checked before anything is read.";
    NotUtf8 = 3, Input, "the input is not UTF-8",
        "TOML and JSON are UTF-8 text. The message gives the first byte that is not. A file that starts with the bytes \
         FF FE or FE FF is UTF-16, which some editors write: save it as UTF-8.";
    ControlCharacter = 4, Input, "a NUL in the text",
        "The text holds a NUL character, which neither TOML nor JSON allows. The file is probably binary.";
    TooDeep = 5, Input, "brackets nest too deeply",
        "A spec needs three levels of nesting. More than 32 open brackets are refused before parsing, so that no input \
         can exhaust the stack.";
    TomlSyntax = 6, Input, "the TOML is malformed",
        "The text does not follow TOML 1.1. A repeated key and a table that is defined twice are syntax errors too.";
    JsonSyntax = 7, Input, "the JSON is malformed",
        "The text does not follow RFC 8259. A spec in a file whose name ends in `.json`, or on standard input with `{` \
         first, is read as JSON. A repeated key is an error too: which one should count would be a guess.";
    EmptySpec = 8, Input, "the spec is empty",
        "A spec needs the tables [moe], [router] and [expert]. `moec schema` lists every key, and examples/specs has \
         complete ones to start from.";
    TooManyParts = 9, Input, "too many lines, keys and values",
        "The schema has about a hundred keys, so a spec with more than 4096 lines, keys and values is not one. They are \
         counted before parsing, which bounds the time and the memory that any input can cost.";

    // 01xx: one key.
    UnknownKey = 101, Input, "no such key",
        "The key is not in the schema. Unknown keys are errors because a misspelt key that is ignored would silently \
         give another layer. The help line names the nearest key, and `moec schema` lists all of them.";
    WrongType = 102, Input, "a value of the wrong type",
        "The key expects another type: an integer, a number, a string, a list or a table. Numbers are never quoted, and \
         where an integer is expected `8.0` is not one.";
    UnknownWord = 103, Input, "no such choice",
        "The key takes one of a few words, and this is none of them. Words are written in lower case.";
    MissingKey = 104, Input, "a required key is missing",
        "The table lacks a key that has no default. moec gives a default only where every implementation agrees.";
    MissingTable = 105, Input, "a required table is missing",
        "Every spec has the tables [moe], [router] and [expert].";
    OutOfRange = 106, Input, "a number outside its range",
        "The limits are those of the kernels: hidden and intermediate up to 2^20, experts up to 4096, top_k up to 64, \
         tokens.max up to 2^31 - 1. Negative numbers are never meant, and a number that an f32 cannot hold would be \
         rounded to zero or to infinity.";
    NotFinite = 107, Input, "nan or inf",
        "TOML can write nan and inf, but no key of a spec can take them.";
    BadName = 108, Input, "a name with other characters",
        "The layer's name becomes the name of files and symbols, so it holds only letters, digits, `.`, `_` and `-`, \
         and at most 64 of them.";
    InexactRatio = 109, Input, "a fraction with too many digits",
        "A capacity factor is kept exactly, as a fraction of two 64-bit integers, because a capacity that was rounded \
         twice drops other tokens. About 18 significant digits fit.";

    // 02xx: what moec does not carry.
    NotSupportedYet = 201, Input, "not supported yet",
        "The key or value is part of the schema, and its meaning is settled, but this version of moec cannot compile \
         it. It is refused rather than ignored: a layer that leaves it out computes something else.";

    // 03xx: two keys.
    TopKAboveExperts = 301, Input, "top_k exceeds the experts",
        "A token cannot select more distinct experts than there are.";
    GroupsDoNotDivide = 302, Input, "groups do not divide experts",
        "Group-limited routing cuts the experts into equal runs of neighbours, so `groups` divides `experts`.";
    TooManyTopGroups = 303, Input, "topk_groups exceeds groups",
        "`topk_groups` of the `groups` stay selectable, so it is at most `groups`.";
    TopKAboveSelectable = 304, Input, "top_k exceeds the experts of the selected groups",
        "Only the experts of the best `topk_groups` groups can be selected: topk_groups * experts / groups of them. \
         `top_k` beyond that would select masked experts, which implementations disagree about.";
    GroupTooSmall = 305, Input, "a group of one expert has no two best",
        "`group_score = \"top2_sum\"` ranks a group by the sum of its two best experts, so a group has at least two.";
    NeedsOther = 306, Input, "a key without the key it needs",
        "The key changes nothing unless another key asks for it, so one of the two is a mistake: either the key is left \
         over, or the other was forgotten.";
    Contradiction = 307, Input, "two keys contradict",
        "The two keys cannot both be meant. The labels show both.";
    MissingRound = 308, Input, "the rounding of the capacity is missing",
        "capacity = factor * tokens / experts is rarely whole, and implementations round it up, down, or half to even: \
         for 37 tokens, 8 experts and factor 1.25 published code gives 5 or 6 slots. Which tokens drop depends on it, so \
         the spec states it. mesh-tensorflow's Switch uses \"floor\", flaxformer \"half_even\", V-MoE \"ceil\".";
    MissingCapacity = 309, Input, "the size of the capacity is missing",
        "A [capacity] table gives its size as `factor` (times tokens / experts), as `tokens` (absolute) or as \
         `fraction` (of the tokens). Without the table a layer whose tokens choose is dropless; experts that choose \
         have to know how many tokens they take.";
    ExpectedAboveMax = 310, Input, "an expected token count above tokens.max",
        "`tokens.expected` names batch sizes to be fast at; one above `tokens.max` would be refused at launch.";
    MissingCountK = 311, Input, "the capacity factor does not say whether top_k counts",
        "With `top_k` above 1 a token asks for several places, and libraries disagree whether `capacity.factor` counts them: \
         with `count_k = true` (Megatron, Tutel, V-MoE, DeepSpeed) C = factor * S * K / E, and factor 1.0 holds an even \
         router's picks; with `count_k = false` (mesh-tensorflow, flaxformer) C = factor * S / E, and it takes factor K. \
         8 picks a token at factor 1.25 without K drop 84 % of a perfectly even router's picks, so the spec states it.";

    // 04xx: [weights].
    WeightNotInLayer = 401, Input, "a weight that the layer does not have",
        "The [weights] entry names a tensor that this layer has no use for, such as a shared expert's without [shared] \
         or a bias without `bias = true`. Either the entry is left over, or a key elsewhere was forgotten, and then the \
         layer would silently compute something else.";
    WeightTwice = 402, Input, "a weight that is stored in two ways",
        "Gate and up are stored either as two tensors or as one (`gate_up`), never both.";
    IllegalLayout = 403, Input, "a layout that the tensor cannot have",
        "\"T\" swaps the last two dimensions of a matrix, \"interleave\" says that gate and up rows alternate in a fused \
         gate_up, \"T interleave\" both, and \"HEP\" is for the slots of soft routing.";
    BadTensorName = 404, Input, "a tensor name that cannot be looked up",
        "A stored name is a non-empty text of at most 512 bytes without control characters. `{e}` stands for the \
         expert's index, in tensors that have one part an expert; no other placeholder exists.";
    ExpertsDisagree = 405, Input, "the experts of a stored tensor differ from the layer's",
        "`experts` in a [weights] entry says that the file flattens the expert dimension into the rows. It repeats \
         moe.experts.";

    // 05xx: limits over several keys.
    LimitExceeded = 501, Input, "a product of sizes exceeds a limit",
        "Each size is legal but their product is not: expert weights are limited to 2^40 elements a tensor, (token, \
         expert) pairs to 2^31 - 1, and activations to 2^46 elements.";

    // 06xx: the command line's files and the environment.
    UnknownCode = 601, Usage, "no such diagnostic code",
        "`moec explain` takes a code such as MOE0101. `moec explain --list` prints all of them.";
    OutputFailed = 602, Environment, "the output cannot be written",
        "Writing the product failed: the folder may not exist, the disk may be full.";
    ToolMissing = 603, Environment, "the environment lacks something",
        "moec looked for a tool or a driver that this machine does not have. `moec doctor` lists what it looks for, and \
         where.";

    UsageConflict = 604, Usage, "flags that do not go together",
        "Each flag is legal but what they ask for together is not, such as several outputs into one file, or PTX for a \
         CPU. The help line says which flag to change.";
    ToolFailed = 605, Environment, "a tool beside moec failed",
        "ptxas or the linker refused what moec gave it, or could not be run. A ptxas that is older than the PTX of the \
         target is the common case: `moec doctor` shows the version of the one, `moec inspect` that of the other. \
         `MOEC_PTXAS=` (set to nothing) compiles without one.";
    Usage = 606, Usage, "the command line is not understood",
        "A command, a flag or its value is not one that moec has, a required one is missing, or a number is outside its bounds. \
         `moec help COMMAND` lists what there is, with an example. The environment counts too: a number of threads in \
         RAYON_NUM_THREADS is held to the bounds of `--threads`.";

    // 07xx: from the graph to the package.
    NoKernels = 701, Input, "no kernels for this layer on this machine",
        "The layer is a correct one, but it cannot be cut into kernels for one of the machines asked for: most often \
         because a row does not fit into what a block may share. The message names the op and the limit.";
    TextSyntax = 702, Input, "the graph or kernel text is malformed",
        "`moec opt` and `moec inspect` read what `moec compile --emit graph,kernel` writes. The label is where the text \
         stops being a graph or a program of kernels.";
    BrokenRule = 703, Verification, "the graph or the kernels break a rule",
        "The text was read, but what it says is not well typed, or asks for what the machine cannot do. Every violation \
         is reported, each under its line.";
    UnknownFile = 704, Input, "not a file that moec reads here",
        "The file is neither a package, nor a graph, nor kernels, nor PTX: the first bytes say which.";

    NoEntry = 705, Input, "an entry that the layer does not have",
        "`--entry experts` takes the picks of each token, and `--entry router` gives them. Where experts choose tokens, or slots mix \
         all of them, tokens have no picks, and only `--entry layer` is there. `--local-experts` says how many of the layer's \
         experts one device has.";

    // 08xx: running a package. The runtime has codes of its own, which the message ends with.
    BadPackage = 801, Input, "the package cannot be used",
        "The file is not a package, is damaged, or was written in another version of the format. Compile the spec again \
         with this moec. Hashes are held against the bytes before anything is loaded.";
    BadCheckpoint = 802, Input, "a tensor file cannot be used",
        "The safetensors file is unreadable or damaged, a tensor is missing, or one has another shape than the layer's. \
         `[weights]` in the spec says under which names and in which layout tensors are looked for, and `--tensor-prefix` \
         what stands before each name.";
    BadBatch = 803, Input, "the batch does not fit the layer",
        "The tokens have another shape or element type than the layer takes, or there are more of them than `tokens.max` \
         in the spec allows.";
    NoDevice = 804, Environment, "the machine lacks what the package needs",
        "There is no NVIDIA driver, no kernels for this GPU or CPU, or not enough memory. `moec doctor` lists what moec \
         finds, and `moec inspect` what a package holds.";
    DeviceFailed = 805, Environment, "the device failed",
        "A call to the driver or the operating system failed while the layer was loaded or run. Nothing more can run on \
         the device in the same process.";
    TooFarOff = 806, Verification, "the result differs from the reference",
        "The largest error, as a part of the largest output, is above what rounding explains: 2e-5 for f32, 4e-3 for f16, \
         3e-2 for bf16. If the sets of experts differ too, a router's near tie may have been rounded the other way, which \
         16-bit weights allow; otherwise a kernel is wrong, and that is a bug in moec.";
    Emulated = 807, Verification, "the emulator found something wrong",
        "The emulator executed the layer's PTX, and its checks found what no kernel may do: an access outside a tensor, a \
         read of memory that is not written, a race, a barrier that not all threads reach, or bits that depend on the \
         schedule. Each finding names the kernel, the line of the PTX, the block, the warp and the lanes. That is a bug in \
         moec, or in the package if moec did not make it: please send the spec and the message.";

    CannotLink = 808, Input, "the packages cannot be linked",
        "Packages of one name are one layer, compiled from one spec for different targets; packages of other names are other \
         layers of the library. Symbols begin with the layer's name (`name` in [moe]), in which all but letters and digits becomes \
         `_`: two specs with one name, two packages for one target, and names that become the same would have the same symbols.";

    // 09xx: moec itself.
    Bug = 901, Bug, "a bug in moec",
        "moec did something that it never should, whatever its input. Please send the spec, the command line and the \
         whole message.";

    // 10xx: Hugging Face configs and their checkpoints.
    UnknownModelType = 1001, Input, "a model type that is not known",
        "`moec import` has a rule for each `model_type`: two models with the same fields may compute different things, so an \
         unknown one is not guessed. Write the spec by hand; `moec schema` lists its keys.";
    DenseLayer = 1002, Input, "a layer without experts",
        "Many models have dense layers before or between their MoE layers. The label is the field that says so, and the \
         help line lists the layers that `--layer` can name.";
    FieldMissing = 1003, Input, "a field that the config lacks",
        "The config does not say something that the layer cannot do without, and no version of the model's code has a \
         default for it. A file without `model_type` is not a config.";
    LayerNeeded = 1004, Input, "layers that differ",
        "A field has one entry a layer, and they are not all equal, so one spec cannot stand for every layer. `--layer N` \
         says which is meant, counted from 0.";
    NotExpressible = 1005, Input, "a model that no spec can express",
        "The model's router or experts do something that the schema leaves out by choice, such as a router with a state of \
         its own. A spec that left it away would be another layer.";
    TensorMissing = 1006, Verification, "a tensor that the checkpoint lacks",
        "`moec import --check` looks for every tensor that the spec names. One that is missing is often under another \
         prefix (`--tensor-prefix`, `--layer`), or the checkpoint is quantised and has blocks and scales in its place.";
    TensorShape = 1007, Verification, "a tensor of another shape",
        "The checkpoint has the tensor that the spec names, but not with the shape that the config gives it. Config and \
         checkpoint are probably of two models, or the tensor is stored in another layout.";
    UnknownPreset = 1008, Usage, "no such preset",
        "Presets are the configs of published models that come with moec. `moec import --preset list` prints their names.";
    UnreadField = 1009, Input, "a field of the layer that no rule reads",
        "The config says something of experts, routing, gates, activations, norms or caps that the import of this `model_type` \
         does not follow, or that disagrees with the layer that it makes. A layer that leaves it out may compute something \
         else. Where the field does not matter, `--allow-unread FIELD` goes on and says so in the spec.";
    FieldsDisagree = 1010, Input, "two fields that mean the same and differ",
        "Models name one thing in several ways, and some configs have more than one of the names. Where they differ it is not \
         known which one the model's code takes. Remove the wrong one, or name it with `--allow-unread FIELD`.";
    TensorDType = 1011, Verification, "a tensor of a type that is not loaded",
        "Weights are loaded from BF16, F16, F32 and F64, and a table of token ids from I64 and I32. Published files in fp8, int8 \
         or packed int4 have other types and scales beside them: load a copy of the model that was written in one of these.";
    TensorUnused = 1012, Verification, "a tensor of the layer that no rule uses",
        "The checkpoint has a tensor at the layer whose name says that it is part of it: of an expert, the router, a shared \
         expert, or a bias, a scale or a norm beside them. The spec does not use it, so that the layer may compute something \
         else. Where it does not matter, `--allow-unread NAME` goes on.";

    // 11xx: warnings. `--allow` names the ones that are expected, `--deny-warnings` makes errors of the others.
    CapacityFloor = 1101, Ok, "a capacity that drops picks of every router",
        "The experts have fewer places together than the tokens have picks, so at least 1 - C E / (S K) of the picks are dropped, \
         however evenly the router spreads them. Most often `count_k = false` stands beside a `top_k` above 1, or the \
         rounding leaves no place where there are few tokens. `[lints] capacity_floor = \"allow\"` in the spec says that it is \
         meant.";
    RowsLeftOut = 1102, Ok, "rows of a trace that are no tokens",
        "Rows with NaN or infinities, and rows that are all zero, are what padding and damaged batches leave in recorded logits. \
         `moec route` counts and names them, and leaves them out of loads, drops and advice. `--keep non-finite,zero` counts them \
         as the layer would route them; `--mask` says which rows are padding, and those are left out without a word.";
    LayersUncertain = 1103, Ok, "tensors that may be of several layers",
        "Numbers in the names of recorded tensors may be those of layers or of batches, and nothing before them says which. They \
         are added up as batches of one layer. `--layer-pattern` has the place of the layer's number, such as `logits.{N}`, or \
         is `none` where there is none; names such as `layers.3.gate` and `step_7` say it themselves.";
    AssemblerWarned = 1104, Ok, "a warning of ptxas",
        "NVIDIA's assembler took the PTX and had something to say about it. The kernels are in the package all the same; the \
         example specs give no such warning, so please send the spec and the message.";
    NotCompared = 1111, Ok, "tensors that a check could not compare",
        "An index names files that are not beside it, so that types and shapes of their tensors are not known: the names alone \
         were held against the spec. Fetch the files, or check again where they are.";
    FilesLeftOut = 1112, Ok, "safetensors files of a folder that are not read",
        "Of a folder, `model.safetensors` is read, else the files that its index names. Others beside them may be the same weights \
         in another format (`consolidated.safetensors`), an adapter, or what was meant: where they are, name the file.";
    EqualWeights = 1113, Ok, "a ranking of weights that are all equal",
        "`priority = \"score\"` serves the tokens with the heaviest weights, as they multiply the rows of an expert. Where a token \
         has one pick and its weight is renormalised, or is a softmax over the selected logits, every weight is 1, and ties go to \
         the earlier token: the scores have no part in what is dropped. `priority = \"batch_prioritized\"` ranks tokens by \
         their scores before renormalisation; `renorm_after_drop = true` renormalises what is kept. `[lints] equal_weights = \
         \"allow\"` in the spec says that it is meant.";
    OldWord = 1114, Ok, "a word of an earlier version",
        "The spec is read as it was meant, but the word is no longer the one that moec writes and documents: `group = \"row\"` \
         was a sequence, and is `group = \"sequence\"`.";
    LeftToCaller = 1115, Ok, "parts of the layer that the entry leaves to its caller",
        "`--entry experts` computes the weighted sum of the routed experts, as engines call it between their own routing and their own \
         sum. What the layer does beside these experts or with their sum (shared experts, projections around the experts, identity \
         experts, the input of dropped pairs, a bias, a scale, a norm) is the engine's. `--allow MOE1115` says that the engine does it; \
         `--entry layer` compiles all of it.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_ascending_and_read_back() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for &code in Code::ALL {
            assert_eq!(Code::from_id(&code.id()), Some(code));
            assert!(code.explanation().len() > code.title().len(), "{code:?}");
        }
        assert_eq!(Code::from_id("101"), Some(Code::UnknownKey));
        assert_eq!(Code::from_id("moe0101"), Some(Code::UnknownKey));
        assert_eq!(Code::from_id("MOE9999"), None);
        assert_eq!(Code::from_id("été"), None);
    }
}
