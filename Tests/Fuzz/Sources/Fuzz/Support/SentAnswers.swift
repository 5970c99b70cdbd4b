/// The answers that a server wrote on one connection, read by the rules of RFC 9112 and nothing of the server's own code.
/// Ends the process when they are not one well-formed answer to each request, in order, and one refusal more at the most.
struct SentAnswers: CustomStringConvertible {
  /// Whole answers to requests.
  private(set) var count = 0
  /// The last answer is to what is no request.
  private(set) var isRefused = false
  /// The last answer says that the connection ends with it.
  private(set) var saysEnd = false
  private let bytes: [UInt8]
  private var position = 0

  var description: String { "\(count) answers in \(String(decoding: bytes, as: UTF8.self).debugDescription)" }

  init(_ bytes: [UInt8], to requests: [Exchanges.Taken]) {
    self.bytes = bytes
    while position < bytes.count {
      promise(!saysEnd, "nothing follows the last answer: \(self)")
      let (status, fields) = head()
      if status == 100 {
        promise(fields.isEmpty, "an interim answer has no fields: \(self)")
        continue
      }
      saysEnd = fields["connection"]?.lowercased() == "close"
      guard let number = fields["n"] else {
        promise((400..<600).contains(status), "what is no answer to a request is a refusal: \(self)")
        promise(saysEnd, "a refusal ends the connection: \(self)")
        isRefused = true
        // It may be to HEAD.
        if position < bytes.count { takeBody(of: status, fields, isHead: false, isEndless: false) }
        continue
      }
      promise(number == "\(count)", "answers come in order: \(number) after \(count)")
      promise(count < requests.count, "an answer is to a request: \(self)")
      let request = requests[count]
      if takeBody(of: status, fields, isHead: request.method == "HEAD", isEndless: request.isEndless) { count += 1 }
    }
  }

  private mutating func line() -> String {
    guard let end = bytes[position...].firstIndex(of: 10) else { broken("a line ends: \(self)") }
    promise(end > position && bytes[end - 1] == 13, "a line ends with CR and LF: \(self)")
    let text = String(decoding: bytes[position..<end - 1], as: UTF8.self)
    promise(!text.contains("\r"), "no CR in a line: \(self)")
    position = end + 1
    return text
  }

  private mutating func head() -> (status: Int, fields: [String: String]) {
    let first = line().split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
    guard first.count == 3, first[0] == "HTTP/1.1" || first[0] == "HTTP/1.0", let status = Int(first[1]),
      (100..<600).contains(status)
    else { broken("an answer begins with version, status and reason: \(self)") }
    var fields: [String: String] = [:]
    while true {
      let field = line()
      if field.isEmpty { break }
      guard let colon = field.firstIndex(of: ":") else { broken("a field has a name: \(self)") }
      let name = field[..<colon].lowercased()
      promise(fields[name] == nil, "a field comes once: \(field), \(self)")
      fields[name] = field[field.index(after: colon)...].trimmingPrefix { $0 == " " }.description
    }
    if first[0] == "HTTP/1.0" { promise(fields["transfer-encoding"] == nil, "HTTP/1.0 has no chunks: \(self)") }
    return (status, fields)
  }

  /// - Returns: whether it is whole.
  @discardableResult
  private mutating func takeBody(of status: Int, _ fields: [String: String], isHead: Bool, isEndless: Bool) -> Bool {
    if isHead || status == 204 || status == 304 { return true }
    if fields["transfer-encoding"] == "chunked" {
      promise(fields["content-length"] == nil, "a length or chunks: \(self)")
      while position < bytes.count {
        guard let length = Int(line(), radix: 16) else { broken("a chunk has a length: \(self)") }
        skip(length)
        promise(line().isEmpty, "a chunk ends: \(self)")
        if length == 0 { return true }
      }
      promise(isEndless, "a chunked answer is whole: \(self)")
      return false
    }
    guard let field = fields["content-length"] else {
      promise(
        fields["connection"]?.lowercased() == "close", "a body without a length ends with the connection: \(self)")
      position = bytes.count
      return true
    }
    guard let length = Int(field) else { broken("a length is a number: \(self)") }
    skip(length)
    return true
  }

  private mutating func skip(_ count: Int) {
    promise(count >= 0 && count <= bytes.count - position, "a body is whole: \(self)")
    position += count
  }
}
