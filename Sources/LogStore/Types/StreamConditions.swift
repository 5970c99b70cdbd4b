/// Conditions on the last versions of streams, one per stream, for an append to happen.
///
/// ```swift
/// var append = Append(events, conditions: ["order-1": .noStream])
/// append.conditions["order-2"] = .version(7)
/// ```
///
/// A stream is identified by its bytes. Two ids that Unicode calls equal and that differ in bytes are two streams here, as
/// they are in the log; a `Dictionary` with `String` keys would take them for one.
public struct StreamConditions: Sendable, Hashable, ExpressibleByDictionaryLiteral, Sequence {
  /// A stream's id, compared and hashed by its bytes.
  private struct StreamName: Hashable, Sendable {
    let stream: String

    static func == (left: StreamName, right: StreamName) -> Bool { sameBytes(left.stream, right.stream) }

    func hash(into hasher: inout Hasher) {
      var stream = stream
      stream.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
  }

  private var byStream: [StreamName: StreamCondition]

  /// No conditions.
  public init() {
    byStream = [:]
  }

  /// Of a stream that is named twice the last condition counts.
  public init(dictionaryLiteral elements: (String, StreamCondition)...) {
    self.init(elements)
  }

  /// Of a stream that is named twice the last condition counts.
  public init(_ conditions: some Sequence<(String, StreamCondition)>) {
    byStream = Dictionary(minimumCapacity: conditions.underestimatedCount)
    for (stream, condition) in conditions { byStream[StreamName(stream: stream)] = condition }
  }

  /// One condition: the usual case, with one allocation.
  init(_ stream: String, _ condition: StreamCondition) {
    byStream = [:]
    byStream[StreamName(stream: stream)] = condition
  }

  /// The number of streams with a condition.
  public var count: Int { byStream.count }
  /// Whether no stream has a condition.
  public var isEmpty: Bool { byStream.isEmpty }
  var first: (stream: String, condition: StreamCondition)? { byStream.first.map { ($0.key.stream, $0.value) } }

  /// The condition on a stream; nil for none.
  public subscript(stream: String) -> StreamCondition? {
    get { byStream[StreamName(stream: stream)] }
    set { byStream[StreamName(stream: stream)] = newValue }
  }

  /// Visits the conditions in no particular order.
  public struct Iterator: IteratorProtocol {
    private var base: Dictionary<StreamName, StreamCondition>.Iterator

    fileprivate init(_ conditions: StreamConditions) {
      base = conditions.byStream.makeIterator()
    }

    /// The next stream and its condition; nil after the last.
    public mutating func next() -> (stream: String, condition: StreamCondition)? {
      base.next().map { ($0.key.stream, $0.value) }
    }
  }

  /// Visits each stream once, in no particular order.
  public func makeIterator() -> Iterator { Iterator(self) }
}

/// Whether two strings have the same bytes. Strings that Unicode calls equal may differ in them.
func sameBytes(_ left: String, _ right: String) -> Bool {
  left.utf8.count == right.utf8.count && left.utf8.elementsEqual(right.utf8)
}
