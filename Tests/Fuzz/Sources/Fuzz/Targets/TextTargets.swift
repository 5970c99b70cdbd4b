@testable import LogStore
@testable import LogStoreCommandParts
@testable import RegisPayParts

/// What `logstore append` reads on its standard input: lines, fields, escapes; and an id as it is given.
enum LinesTarget {
  static func run(_ input: inout InputReader) {
    let step = Int(input.byte() % 32) + 1
    let text = input.takeRest()
    let memory = GuardedMemory(text)
    let whole = UnsafeRawBufferPointer(memory.bytes).bindMemory(to: UInt8.self)
    // In pieces, as they come out of a pipe.
    var splitter = LineSplitter()
    var lines: [[UInt8]] = []
    func take(_ line: LineSplitter.Line) -> Bool {
      switch line {
      case .bytes(let bytes):
        lines.append(Array(bytes))
        check(bytes)
      case .tooLong: broken("no input here is as long as the limit")
      }
      return true
    }
    for start in stride(from: 0, to: whole.count, by: step) {
      splitter.feed(UnsafeBufferPointer(rebasing: whole[start..<min(start + step, whole.count)]), take)
    }
    splitter.finish(take)
    var wanted = text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map(Array.init)
    if wanted.last == [] { wanted.removeLast() }
    promise(lines == wanted, "lines are what stands between newlines")
    if let id = EventID(String(decoding: text, as: UTF8.self)) {
      promise(EventID(id.description) == id, "an id is read as it is written")
    }
  }

  /// A line that is taken says the same when it is written out by the rules of `dump` and read again.
  private static func check(_ line: Slice<UnsafeBufferPointer<UInt8>>) {
    guard let event = try? EventLine.parse(line) else { return }
    promise(!event.stream.isEmpty && event.stream.utf8.count <= Limits.nameBytes, "a stream within the limits")
    promise(!event.type.isEmpty && event.type.utf8.count <= Limits.nameBytes, "a type within the limits")
    var written: [UInt8] = []
    for (number, field) in [Array(event.stream.utf8), Array(event.type.utf8), event.payload].enumerated() {
      if number > 0 { written.append(UInt8(ascii: "\t")) }
      field.withUnsafeBytes { written.append(escaping: $0) }
    }
    promise(!written.contains(UInt8(ascii: "\n")) && !written.contains(UInt8(ascii: "\r")), "one line")
    let again = written.withUnsafeBufferPointer { try? EventLine.parse($0[...]) }
    promise(again == event, "what is written is read as it was")
  }
}

/// The bodies that RegisPay reads, and the amounts in them.
enum JSONTarget {
  static func run(_ input: inout InputReader) {
    let text = input.takeRest()
    let value: JSONValue
    do throws(JSONError) {
      value = try JSONReader.read(text)
    } catch {
      promise(error.position >= 0 && error.position <= text.count, "the byte is in the text: \(error)")
      return
    }
    do throws(JSONError) {
      promise(try JSONReader.read(value.bytes) == value, "what is written is read as it was")
    } catch {
      broken("what is written can be read: \(error)")
    }
    numbers(value)
  }

  private static func numbers(_ value: JSONValue) {
    switch value {
    case .number(let text):
      guard let number = DecimalText(text) else { broken("a JSON number is a decimal: \(text)") }
      for exponent in [0, 2, 6] {
        guard let money = try? Money(number, currency: Currency(code: "GBP", exponent: exponent)) else { continue }
        guard let again = DecimalText(money.decimal) else { broken("an amount is a JSON number: \(money)") }
        promise(again == number, "an amount says what its number said: \(text), \(money)")
      }
    case .array(let elements): elements.forEach(numbers)
    case .object(let members): members.forEach { numbers($0.value) }
    case .null, .bool, .string: break
    }
  }
}
