/// Numbers out of an input's bytes; zeros when they are used up.
struct InputReader {
  private var rest: Slice<UnsafeRawBufferPointer>

  init(_ bytes: UnsafeRawBufferPointer) { rest = bytes[...] }

  var isAtEnd: Bool { rest.isEmpty }

  mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

  mutating func number(bytes count: Int) -> UInt64 {
    (0..<count).reduce(0) { number, index in number | UInt64(byte()) << UInt64(8 * index) }
  }

  /// A number below a bound, 0 if there is none.
  mutating func index(below bound: Int) -> Int {
    bound <= 1 ? 0 : Int(number(bytes: bound <= 1 << 8 ? 1 : bound <= 1 << 16 ? 2 : 3)) % bound
  }

  mutating func take(_ count: Int) -> [UInt8] {
    let taken = Array(rest.prefix(count))
    rest = rest.dropFirst(count)
    return taken
  }

  mutating func takeRest() -> [UInt8] { take(rest.count) }
}

/// Ends the process with a report that libFuzzer keeps the input of: something that was promised does not hold.
func broken(_ promise: @autoclosure () -> String, file: StaticString = #file, line: UInt = #line) -> Never {
  fatalError("broken promise: \(promise())", file: file, line: line)
}

func promise(
  _ holds: Bool, _ text: @autoclosure () -> String, file: StaticString = #file, line: UInt = #line
) {
  if !holds { broken(text(), file: file, line: line) }
}
