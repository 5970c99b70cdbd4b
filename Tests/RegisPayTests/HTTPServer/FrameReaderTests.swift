import NIOCore
import Testing

@testable import RegisPay

@Suite("HTTP/2's frames as they come")
struct FrameReaderTests {
  private static func frame(_ kind: UInt8, _ flags: UInt8 = 0, _ count: Int) -> [UInt8] {
    [UInt8(count >> 16), UInt8(count >> 8 & 255), UInt8(count & 255), kind, flags, 0, 0, 0, 1]
      + Array(repeating: 7, count: count)
  }

  @Test("frames are counted once, however they are cut", arguments: [1, 2, 8, 9, 10, 1_000])
  func cut(_ step: Int) {
    let bytes =
      Array(repeating: UInt8(ascii: "P"), count: 24) + Self.frame(4, 0, 6) + Self.frame(1, 0, 70) + Self.frame(9, 4, 3)
      + Self.frame(0, 0, 300) + Self.frame(6, 0, 0)
    var reader = FrameReader(prefaceBytes: 24)
    var kinds: [UInt8] = []
    #expect(reader.isUnfinished)
    for start in stride(from: 0, to: bytes.count, by: step) {
      reader.read(ByteBuffer(bytes: bytes[start..<min(start + step, bytes.count)])) { kinds.append($0) }
    }
    #expect(kinds == [4, 1, 9, 0, 6])
    #expect(!reader.isUnfinished && reader.unfinishedBytes == 0)
  }

  @Test("what is kept until the rest comes is counted: a part of a frame, and fields that go on; not a part of a body")
  func unfinished() {
    var reader = FrameReader()
    func read(_ bytes: some Sequence<UInt8>) -> Int {
      reader.read(ByteBuffer(bytes: bytes)) { _ in }
      return reader.unfinishedBytes
    }
    #expect(read(Self.frame(4, 0, 12).prefix(5)) == 5)
    #expect(read(Self.frame(4, 0, 12).dropFirst(5).prefix(8)) == 13)
    #expect(read(Self.frame(4, 0, 12).dropFirst(13)) == 0)
    // HEADERS and CONTINUATION without END_HEADERS, with it at last.
    #expect(read(Self.frame(1, 0, 100)) == 109)
    #expect(read(Self.frame(9, 0, 50)) == 168)
    #expect(read(Self.frame(9, 4, 50).prefix(20)) == 188)
    #expect(read(Self.frame(9, 4, 50).dropFirst(20)) == 0)
    #expect(read(Self.frame(0, 0, 100).prefix(8)) == 8)
    #expect(read(Self.frame(0, 0, 100).dropFirst(8).prefix(50)) == 0)
    #expect(!reader.isUnfinished)
  }

  @Test("a client may send many frames at once, some a second, and what the server's frames are reason for")
  func allowance() {
    var allowance = FrameAllowance()
    let start = NIODeadline.now()
    func receive(_ frames: Int, after time: TimeAmount) -> Bool { allowance.received(frames, now: start + time) }
    #expect(receive(10_000, after: .zero))
    #expect(!receive(1, after: .zero))
    #expect(receive(199, after: .seconds(1)))
    #expect(!receive(100, after: .seconds(1)))
    for _ in 0..<100 { allowance.sent() }
    #expect(receive(300, after: .seconds(1)))
  }
}
