import Foundation

/// A generator that gives the same numbers for the same seed (SplitMix64, by Sebastiano Vigna).
public struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64

  public init(_ seed: UInt64) {
    state = seed
  }

  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }

  /// The seed in an environment variable, to see a failure again.
  public static func given(_ variable: String) -> UInt64? {
    UInt64(ProcessInfo.processInfo.environment[variable] ?? "")
  }

  /// With the given seed, or a new one, which it prints.
  public static func printed(_ variable: String, _ test: String = #function) -> SeededGenerator {
    let seed = given(variable) ?? .random(in: .min ... .max)
    print("\(test): \(variable)=\(seed)")
    return SeededGenerator(seed)
  }
}
