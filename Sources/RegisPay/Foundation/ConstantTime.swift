/// Compares bytes in a time that does not depend on where they differ, so that an attacker who tries secrets does not learn how much
/// of one was right. The lengths are not secret.
func equalInConstantTime(_ first: some Collection<UInt8>, _ second: some Collection<UInt8>) -> Bool {
  guard first.count == second.count else { return false }
  var difference: UInt8 = 0
  for (one, other) in zip(first, second) { difference |= one ^ other }
  return difference == 0
}

/// Lower-case hexadecimal digits.
func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
  let digits = Array("0123456789abcdef".utf8)
  var text: [UInt8] = []
  for byte in bytes {
    text.append(digits[Int(byte >> 4)])
    text.append(digits[Int(byte & 15)])
  }
  return String(decoding: text, as: UTF8.self)
}

/// Random bytes of the system's generator.
func randomBytes(_ count: Int) -> [UInt8] {
  // SystemRandomNumberGenerator is getrandom(2) on Linux.
  var generator = SystemRandomNumberGenerator()
  return (0..<count).map { _ in .random(in: .min ... .max, using: &generator) }
}
