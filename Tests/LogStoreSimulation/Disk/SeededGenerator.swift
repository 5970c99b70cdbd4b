import Glibc

/// A generator that returns the same numbers for the same seed (SplitMix64, by Sebastiano Vigna).
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(_ seed: UInt64) {
    state = seed
  }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }

  /// From the environment, to see a failure again.
  static let givenSeed = getenv("LOGSTORE_SEED").flatMap { UInt64(String(cString: $0)) }

  /// With the given seed, or a new one, which it prints.
  static func printed(_ test: String = #function) -> SeededGenerator {
    let seed = givenSeed ?? .random(in: .min ... .max)
    print("\(test): LOGSTORE_SEED=\(seed)")
    return SeededGenerator(seed)
  }
}
