import Testing

@testable import RegisPay

private func read(_ text: String) throws(JSONError) -> JSONValue { try JSONReader.read(Array(text.utf8)) }

@Suite("The JSON reader")
struct JSONReaderTests {
  @Test(
    "a number keeps its text",
    arguments: [
      "0", "-0", "12.34", "12.340", "1e2", "1E+2", "1e-2", "1e400", "-0.0e-0", "123456789012345678901234567890.5",
    ])
  func numbers(_ text: String) throws {
    #expect(try read(text) == .number(text))
    #expect(try read(" [\(text)\t] ") == .array([.number(text)]))
  }

  @Test(
    "what is no JSON number is refused",
    arguments: ["01", "-", "+1", ".5", "1.", "1.e1", "1e", "1e+", "0x1", "NaN", "Infinity", "1_000", "--1", "1.2.3"])
  func noNumbers(_ text: String) {
    #expect(throws: JSONError.self) { try read(text) }
  }

  @Test("all kinds of values are read, members in their order")
  func values() throws {
    let value = try read(#" { "b" : [ true , false , null , "x" ] , "a" : { } , "" : [ ] } "#)
    #expect(
      value == ["b": .array([.bool(true), .bool(false), .null, .string("x")]), "a": .object([]), "": .array([])])
    #expect(value["b"] == .array([.bool(true), .bool(false), .null, .string("x")]))
    #expect(value["c"] == nil)
    #expect(JSONValue.null["a"] == nil)
  }

  @Test(
    "escapes are read",
    arguments: [
      (#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{C}\n\r\t"), (#""\u00e9\u0000""#, "é\u{0}"), (#""\ud83d\ude00""#, "😀"),
      (#""\uD83D\uDE00""#, "😀"), (#""é😀""#, "é😀"),
    ])
  func escapes(_ text: String, _ expected: String) throws {
    #expect(try read(text) == .string(expected))
  }

  @Test(
    "errors name the byte",
    arguments: [
      ("", 0), (" ", 1), ("{", 1), ("[1", 2), ("[1,", 3), ("[1,]", 3), ("{\"a\"}", 4), ("{\"a\":1,}", 7), ("{a:1}", 1),
      ("1 2", 2), ("nul", 0), ("\"a", 2), ("\"a\nb\"", 2), (#""\x""#, 2), (#""\u12g4""#, 5), (#""\ud800""#, 1),
      (#""\ud800\u0041""#, 1), (#""\udc00""#, 1), ("{\"a\":1,\"a\":2}", 7), ("'a'", 0), ("[1 2]", 3), ("// x", 0),
      ("\u{FEFF}1", 0), ("[\u{A0}1]", 1),
    ])
  func positions(_ text: String, _ position: Int) {
    let error = #expect(throws: JSONError.self) { try read(text) }
    #expect(error?.position == position, "\(error?.description ?? "")")
  }

  @Test("keys that are equal once their escapes are read are one key")
  func equalKeys() {
    #expect(throws: JSONError.self) { try read(#"{"amount":1,"\u0061mount":2}"#) }
    #expect(throws: Never.self) { try read(#"[{"a":1},{"a":2}]"#) }
  }

  @Test(
    "bytes that are not UTF-8 are refused inside strings and outside",
    arguments: [
      [0x22, 0xFF, 0x22], [0x22, 0xC0, 0xAF, 0x22], [0x22, 0xED, 0xA0, 0x80, 0x22],
      [0x22, 0xF4, 0x90, 0x80, 0x80, 0x22],
      [0x22, 0xE2, 0x82, 0x22], [0xFF], [0x00], [0x22, 0x00, 0x22], [0xFE, 0xFF, 0x00, 0x31],
    ] as [[UInt8]])
  func invalidUTF8(_ bytes: [UInt8]) {
    #expect(throws: JSONError.self) { try JSONReader.read(bytes) }
  }

  @Test("nesting up to the limit is read, deeper is refused, however deep", arguments: ["[", "{\"a\":", "[{\"a\":"])
  func depth(_ opening: String) {
    for count in [JSONReader.depthLimit + 1, 100_000] {
      let error = #expect(throws: JSONError.self) { try read(String(repeating: opening, count: count)) }
      #expect(error?.reason.contains("deeper") == true)
    }
    let limit = JSONReader.depthLimit
    #expect(throws: Never.self) {
      try read(String(repeating: "[", count: limit) + String(repeating: "]", count: limit))
    }
  }

  @Test("a megabyte of digits, members or escapes is read in linear time")
  func large() throws {
    let digits = String(repeating: "9", count: 1 << 20)
    #expect(try read(digits) == .number(digits))
    let members = (0..<50_000).map { "\"key\($0)\":\($0)" }.joined(separator: ",")
    #expect(throws: Never.self) { try read("{\(members)}") }
    #expect(try read("\"\(String(repeating: #"\n"#, count: 1 << 19))\"").text?.utf8.count == 1 << 19)
  }

  @Test("every truncation of a document is refused")
  func truncated() {
    let document = Array(#"{"amount":-12.5e+1,"currency":"G\u00e9\ud83d\ude00","x":[true,false,null,{"y":"é"}]}"#.utf8)
    #expect(throws: Never.self) { try JSONReader.read(document) }
    for length in 0..<document.count {
      #expect(throws: JSONError.self, "\(length) bytes") { try JSONReader.read(Array(document[..<length])) }
    }
  }

  @Test("no byte inserted anywhere makes it crash")
  func garbled() {
    let document = Array(#"{"a":[1.5e3,"\u00e9\ud83d\ude00",true,null]}"#.utf8)
    for place in document.indices {
      for byte in UInt8.min...UInt8.max {
        var bytes = document
        bytes[place] = byte
        guard let value = try? JSONReader.read(bytes) else { continue }
        #expect(throws: Never.self) { try JSONReader.read(value.bytes) }
      }
    }
  }

  @Test("written values are read back the same")
  func roundTrip() throws {
    let value: JSONValue = [
      "text": "quote \" back \\ slash / line \n\r\t bell \u{7} delete \u{7F} é 😀 \u{2028}",
      "number": .number("-1.50e3"),
      "list": .array([.null, .bool(true), .object([]), .array([])]),
    ]
    #expect(try JSONReader.read(value.bytes) == value)
    #expect(!value.bytes.contains { $0 < 0x20 })
  }
}
