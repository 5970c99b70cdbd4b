import LogStore

/// The stream of each event of a growing log. Every stream has the same number of events once all of its events are
/// written.
struct ScaleLayout: Sendable {
  var shape: EventShape
  var eventsPerStream: Int
  /// Spreads the events of a stream as far as the step allows, instead of within some thousand events, as a payment's are.
  var isSpread: Bool

  /// How far a stream's events are apart, as streams begun meanwhile.
  private static let distance = 300
  /// Coprime to every number of streams that isn't a multiple of it.
  private static let prime = 2_147_483_647

  func event(_ number: Int, stepFrom previous: Int, to target: Int) -> NewEvent {
    let stream = isSpread ? spread(number, previous, target) : near(number)
    return NewEvent(stream: EventShape.stream(stream), type: EventShape.type, payload: shape.payload(number))
  }

  /// Streams that are whole when this many events are written.
  func wholeStreams(_ events: Int) -> Int {
    isSpread ? events / eventsPerStream : max(0, events / eventsPerStream - (eventsPerStream - 1) * Self.distance)
  }

  /// The k-th event of a stream comes k × ``distance`` streams later than its first. Streams that would have begun before
  /// the log did are numbered from the other end.
  private func near(_ number: Int) -> Int {
    let stream = number / eventsPerStream - number % eventsPerStream * Self.distance
    return stream >= 0 ? stream : 10_000_000_000 - stream
  }

  private func spread(_ number: Int, _ previous: Int, _ target: Int) -> Int {
    let first = previous / eventsPerStream
    let streams = max(1, target / eventsPerStream - first)
    return first + (number - previous) % streams * (Self.prime % streams) % streams
  }
}

/// The points to measure at: powers of ten from a million on, and the end.
func scaleSteps(to events: Int) -> [Int] {
  var steps: [Int] = []
  var step = 1_000_000
  while step < events {
    steps.append(step)
    step *= 10
  }
  return steps + [events]
}

/// Names of streams that writers begin themselves: as long as the filled ones' names (12 bytes), and unique.
struct OwnStreams: Sendable {
  private let letter: Character

  /// - Parameter part: 0 to 25, another for each set of streams.
  init(part: Int) {
    letter = Character(UnicodeScalar(UInt8(ascii: "A") + UInt8(part % 26)))
  }

  func name(writer: Int, number: Int) -> String {
    "\(letter)\(Self.digits(writer, 4))\(Self.digits(number, 7))"
  }

  private static func digits(_ number: Int, _ count: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, count - digits.count)) + digits
  }
}
