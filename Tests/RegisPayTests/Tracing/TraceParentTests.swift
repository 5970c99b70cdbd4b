import HTTPTypes
import Testing

@testable import RegisPay

@Suite("Trace context")
struct TraceParentTests {
  private static let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  @Test("a field that is read is written as it was")
  func roundTrip() throws {
    for text in [Self.text, "00-00000000000000000000000000000001-000000000000000f-00"] {
      #expect(try #require(TraceParent(text)).field == text)
    }
    // A later version is handed on as ours, with the flags that we know.
    let later = try #require(TraceParent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what"))
    #expect(later.field == Self.text)
  }

  @Test("a request's fields name one trace, or none")
  func fields() throws {
    func context(_ fields: [(String, String)]) throws -> TraceContext? {
      var all = HTTPFields()
      for (name, value) in fields { all.append(HTTPField(name: try #require(HTTPField.Name(name)), value: value)) }
      return TraceContext(all)
    }
    #expect(try context([("traceparent", Self.text)])?.parent == TraceParent(Self.text))
    #expect(try context([]) == nil)
    #expect(try context([("traceparent", Self.text), ("traceparent", Self.text)]) == nil)
    #expect(try context([("traceparent", "00-x"), ("tracestate", "a=b")]) == nil)
    #expect(try context([("tracestate", "a=b")]) == nil)
    let states = [("traceparent", Self.text), ("tracestate", "a=1"), ("tracestate", "b=2,c=3")]
    #expect(try context(states)?.state == "a=1,b=2,c=3")
    let long = "a=" + String(repeating: "x", count: TraceContext.stateLimit - 2)
    #expect(try context([("traceparent", Self.text), ("tracestate", long)])?.state == long)
    let tooLong = try #require(try context([("traceparent", Self.text), ("tracestate", long + "x")]))
    #expect(tooLong.state == nil && tooLong.parent.field == Self.text)
    #expect(try context([("traceparent", Self.text), ("tracestate", "ä=ö")])?.state == nil)
  }

  @Test("a span's id follows from its words, in their order, and from its trace")
  func spans() {
    let trace = TraceID(high: 1, low: 2)
    var ids: Set<UInt64> = []
    for first in UInt64(0)..<100 { for second in UInt64(0)..<100 { ids.insert(trace.span(first, second)) } }
    #expect(ids.count == 10_000 && !ids.contains(0))
    #expect(trace.span(1, 2) == trace.span(1, 2))
    #expect(trace.span(1, 2) != TraceID(high: 2, low: 1).span(1, 2))
    #expect(trace.span(1) != trace.span(1, 0))
  }

  @Test("a sampler decides by the trace's last 56 bits, or as the parent did")
  func samplers() throws {
    let parent = try #require(TraceParent(Self.text))
    let half = TraceSampler(ratio: 0.5)
    #expect(half.records(TraceID(high: 0, low: 0x00_7F_FF_FF_FF_FF_FF_FF), parent: nil))
    #expect(!half.records(TraceID(high: 0, low: 0x00_80_00_00_00_00_00_00), parent: nil))
    #expect(half.records(TraceID(high: 0, low: 0xFF_00_00_00_00_00_00_00), parent: nil))
    #expect(half.records(TraceID(high: 0, low: .max), parent: parent))
    #expect(!TraceSampler(ratio: 0.5, followsParent: false).records(TraceID(high: 0, low: .max), parent: parent))
    #expect(TraceSampler(ratio: 1, followsParent: false).records(TraceID(high: 0, low: .max), parent: nil))
    #expect(!TraceSampler.none.records(TraceID(high: 0, low: 0), parent: nil))
    let ids = (0..<4_000).map { _ in PaymentID.random().traceID }
    let share = Double(ids.count { TraceSampler(ratio: 0.25).records($0, parent: nil) }) / 4_000
    #expect((0.2...0.3).contains(share))
  }
}
