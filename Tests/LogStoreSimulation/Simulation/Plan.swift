import Glibc

@testable import LogStore

/// The plan of one history: created from a seed, and then only read, so that parts of it can be left out to see whether a
/// failure needs them.
struct Plan: Sendable {
  /// One step of the client, with a seed of its own: its details do not change when other steps are left out.
  struct Step: Sendable, Hashable {
    enum Kind: String, Sendable, CaseIterable {
      case append, appendsAtOnce, appendBuffered, flush, sendAgain, reuseID, commitCursor
      case readAll, readStreams, tail, openReader, closeReader, waitUntilIndexed, openSecondWriter, backUp, verify
      case waitForAnswers
    }

    var kind: Kind
    var seed: UInt64
  }

  enum End: Sendable, Hashable {
    case close
    /// The store is released without a close.
    case abandon
    /// The process is gone; what it wrote is in the kernel.
    case kill
    /// - keep: the percentage of unsynced data that survives.
    case powerCut(keep: UInt64)
  }

  /// Operations of the disk that fail.
  struct Failure: Sendable, Hashable {
    enum Scope: String, Sendable, CaseIterable {
      case any, segments, syncs, names, looks
    }

    /// Counted from the opening of the life's store on, of those in the scope.
    var first: Int
    var count: Int
    var code: Int32
    var scope: Scope
  }

  /// From one opening of the store to the next.
  struct Life: Sendable, Hashable {
    var steps: [Step]
    var end: End
    /// The process dies at this operation of the disk, if it comes so far.
    var dieAt: Int?
    var failures: [Failure]
    /// After the life a copy of the disk gets this damage, and must show it.
    var damage: UInt64?
    /// After the life a reader opens the store, without a writer.
    var isRead = false
  }

  var seed: UInt64
  /// The order of threads.
  var schedule: UInt64
  var noise: SimulatedMachine.Noise
  /// Bytes of payloads, mostly.
  var payloadByteCount: Int
  /// The client writes data that looks like the store's own.
  var isHostile = false
  var lives: [Life]

  init(seed: UInt64, payloadByteCount: Int, lives: [Life]) {
    self.seed = seed
    schedule = seed
    noise = SimulatedMachine.Noise()
    self.payloadByteCount = payloadByteCount
    self.lives = lives
  }

  init(seed: UInt64) {
    var generator = SeededGenerator(seed)
    self.seed = seed
    schedule = generator.next()
    noise = SimulatedMachine.Noise(
      interruptsOneIn: [0, 0, 5, 20].drawn(&generator), writesBackOneIn: [0, 2, 8].drawn(&generator),
      setsClockOneIn: [0, 4, 16].drawn(&generator))
    // Large events make segments end, and indexes be merged.
    payloadByteCount = [40, 200, 1500, 6000, 30_000].drawn(&generator)
    let lifeCount = [1, 2, 3, 3, 4, 5].drawn(&generator)
    lives = []
    for _ in 0..<lifeCount { lives.append(Self.life(&generator)) }
    isHostile = generator.oneIn(3)
  }

  private static let ofCursors: [Step.Kind] = [
    .commitCursor, .commitCursor, .appendBuffered, .appendsAtOnce, .openReader, .openReader, .verify, .backUp,
  ]

  private static func kind(_ generator: inout SeededGenerator) -> Step.Kind {
    switch generator.next() % 100 {
    case 0..<26: .append
    case 26..<46: .appendsAtOnce
    case 46..<54: .appendBuffered
    case 54..<58: .flush
    case 58..<66: .sendAgain
    case 66..<68: .reuseID
    case 68..<74: .commitCursor
    case 74..<78: .readAll
    case 78..<83: .readStreams
    case 83..<86: .tail
    case 86..<90: .openReader
    case 90..<92: .closeReader
    case 92..<94: .waitUntilIndexed
    case 94..<95: .openSecondWriter
    case 95..<97: .backUp
    case 97..<98: .verify
    default: .waitForAnswers
    }
  }

  private static func life(_ generator: inout SeededGenerator) -> Life {
    let stepCount = [0, 2, 4, 8, 12, 20].drawn(&generator)
    // Some lives are about segments that hold only cursors and are replaced by others of the same name while they are read.
    let isOfCursors = generator.oneIn(8)
    var steps: [Step] = []
    for _ in 0..<stepCount {
      let kind = isOfCursors && !generator.oneIn(4) ? Self.ofCursors.drawn(&generator) : Self.kind(&generator)
      steps.append(Step(kind: kind, seed: generator.next()))
    }
    let end: End =
      switch generator.next() % 10 {
      case 0, 1: .close
      case 2: .abandon
      case 3, 4: .kill
      default: .powerCut(keep: [0, 0, 10, 50, 90, 100].drawn(&generator))
      }
    var dieAt: Int?
    if end != .close, end != .abandon, generator.next() % 4 != 0 {
      // Processes that die early die while the store is opened.
      dieAt = 1 + Int(generator.next() % [12, 40, 150].drawn(&generator))
    }
    var failures: [Failure] = []
    if generator.next() % 4 == 0 {
      // The first syncs are those of an opening.
      let isEarly = generator.next() % 3 == 0
      failures.append(
        Failure(
          first: 1 + Int(generator.next() % (isEarly ? 3 : [4, 12, 60].drawn(&generator))),
          count: [1, 1, 1, 4, 40].drawn(&generator), code: [EIO, ENOSPC, EINTR].drawn(&generator),
          scope: isEarly ? .syncs : Failure.Scope.allCases.drawn(&generator)))
    }
    return Life(
      steps: steps, end: end, dieAt: dieAt, failures: failures,
      damage: generator.next() % 8 == 0 ? generator.next() : nil, isRead: generator.next() % 4 == 0)
  }
}

extension Plan: CustomStringConvertible {
  var description: String {
    var lines = [
      "LOGSTORE_SEED=\(seed) schedule \(schedule) payloads of \(payloadByteCount) bytes\(isHostile ? " that look like the store's" : ""), \(noise)"
    ]
    for (number, life) in lives.enumerated() {
      lines.append("life \(number + 1): open the store")
      for failure in life.failures {
        lines.append(
          "  operations \(failure.first)…\(failure.first + failure.count - 1) of \(failure.scope) fail:"
            + " \(systemMessage(failure.code))")
      }
      if let dieAt = life.dieAt { lines.append("  the process dies at operation \(dieAt)") }
      for step in life.steps { lines.append("  \(step.kind.rawValue)") }
      lines.append("  end: \(life.end)")
      if life.isRead { lines.append("  a reader looks") }
      if life.damage != nil { lines.append("  a copy is damaged and looked at") }
    }
    return lines.joined(separator: "\n")
  }
}

extension Array {
  func drawn(_ generator: inout SeededGenerator) -> Element {
    self[Int(generator.next() % UInt64(count))]
  }
}

extension SeededGenerator {
  mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
  mutating func oneIn(_ count: UInt64) -> Bool { next() % count == 0 }
}
