import Glibc

/// A number with a fixed number of decimals, always with a point if there are any, and never with an exponent.
func fixed(_ number: Double, _ digits: Int) -> String {
  guard number.isFinite else { return "0" }
  var scale = 1.0
  for _ in 0..<digits { scale *= 10 }
  let scaled = (abs(number) * scale).rounded()
  guard scaled < 9e18 else { return "0" }
  let whole = UInt64(scaled)
  let sign = number < 0 && whole > 0 ? "-" : ""
  if digits == 0 { return "\(sign)\(whole)" }
  let fraction = String(whole % UInt64(scale))
  return sign + "\(whole / UInt64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
}

/// 1234567 as 1,234,567.
func grouped(_ number: Double) -> String {
  var text = ""
  for (index, digit) in String(UInt64(max(0, number.rounded()))).reversed().enumerated() {
    if index > 0, index % 3 == 0 { text.append(",") }
    text.append(digit)
  }
  return String(text.reversed())
}

func grouped(_ number: Int) -> String { grouped(Double(number)) }

/// Padded on the left, or with a negative width on the right.
func column(_ text: String, _ width: Int) -> String {
  let padding = String(repeating: " ", count: max(0, abs(width) - text.count))
  return width < 0 ? text + padding : padding + text
}

/// Bytes as a person reads them.
func bytes(_ count: Double) -> String {
  for (unit, size) in [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)] where count >= size {
    return "\(fixed(count / size, 1)) \(unit)"
  }
  return "\(fixed(count, 0)) B"
}

/// One JSON object on one line, its fields in the order they were put.
struct JSONLine {
  private var fields: [String] = []

  mutating func put(_ name: String, _ value: String) { fields.append("\"\(name)\":\"\(Self.escaped(value))\"") }
  mutating func put(_ name: String, _ value: Int) { fields.append("\"\(name)\":\(value)") }
  mutating func put(_ name: String, _ value: Bool?) {
    fields.append("\"\(name)\":\(value.map { $0 ? "true" : "false" } ?? "null")")
  }
  mutating func put(_ name: String, _ value: Double?, digits: Int) {
    fields.append("\"\(name)\":\(value.map { fixed($0, digits) } ?? "null")")
  }

  var text: String { "{\(fields.joined(separator: ","))}" }

  private static func escaped(_ text: String) -> String {
    var escaped = ""
    for character in text.unicodeScalars {
      switch character {
      case "\"": escaped += "\\\""
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      default:
        if character.value < 0x20 {
          let digits = String(character.value, radix: 16)
          escaped += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        } else {
          escaped.unicodeScalars.append(character)
        }
      }
    }
    return escaped
  }
}

/// Prints a line at once, also into a pipe.
func printLine(_ text: String) {
  var line = text + "\n"
  _ = line.withUTF8 { write(STDOUT_FILENO, $0.baseAddress, $0.count) }
}

/// Nanoseconds of a clock that all processes of the machine share.
func nowNanoseconds() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
