import Testing

@testable import RegisPay

@Suite("OTEL_ variables")
struct OTLPOptionsTests {
  @Test("nothing is sent unless a variable asks for it")
  func off() throws {
    #expect(try TraceOptions(environment: [:]).exporter == nil)
    #expect(try TraceOptions(environment: ["OTEL_EXPORTER_OTLP_ENDPOINT": ""]).exporter == nil)
    #expect(try TraceOptions(environment: ["OTEL_SERVICE_NAME": "shop"]).exporter == nil)
    let endpoint = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"]
    #expect(try TraceOptions(environment: endpoint.merging(["OTEL_SDK_DISABLED": "True"]) { $1 }).exporter == nil)
    #expect(try TraceOptions(environment: endpoint.merging(["OTEL_TRACES_EXPORTER": "none"]) { $1 }).exporter == nil)
    // Of a variable for another signal nothing follows.
    #expect(try TraceOptions(environment: ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "nonsense"]).exporter == nil)
  }

  @Test("the endpoint for all signals gets a path, the one for traces is taken as it is")
  func endpoint() throws {
    func url(_ environment: [String: String]) throws -> String? {
      try TraceOptions(environment: environment).exporter?.url
    }
    #expect(try url(["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"]) == "http://c:4318/v1/traces")
    #expect(try url(["OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp/"]) == "https://c/otlp/v1/traces")
    #expect(
      try url(["OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/x"])
        == "http://b/x")
    #expect(try url(["OTEL_TRACES_EXPORTER": "otlp"]) == "http://localhost:4318/v1/traces")
  }

  @Test("log lines have variables of their own")
  func logs() throws {
    let all = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:1"]
    let plain = try LogExportOptions(environment: all)
    #expect(plain.exporter?.url == "http://c:4318/v1/logs" && plain.makeQueue() != nil)
    #expect(plain.delay == .seconds(1) && plain.batchLimit == 512 && plain.queueLimit == 2_048)
    let none = try LogExportOptions(environment: all.merging(["OTEL_LOGS_EXPORTER": "none"]) { $1 })
    #expect(none.exporter == nil && none.makeQueue() == nil)
    #expect(try LogExportOptions(environment: ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:1"]).exporter == nil)
    let set = try LogExportOptions(environment: [
      "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://l/x", "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "gzip",
      "OTEL_BLRP_SCHEDULE_DELAY": "20", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "2", "OTEL_BLRP_MAX_QUEUE_SIZE": "3",
    ])
    #expect(set.exporter?.url == "http://l/x" && set.exporter?.isCompressed == true)
    #expect(set.delay == .milliseconds(20) && set.batchLimit == 2 && set.queueLimit == 3)
    let few = try LogExportOptions(environment: all.merging(["OTEL_BLRP_MAX_QUEUE_SIZE": "3"]) { $1 })
    #expect(few.batchLimit == 3 && few.queueLimit == 3)
    let short = try LogExportOptions(environment: all.merging(["OTEL_BLRP_EXPORT_TIMEOUT": "70"]) { $1 })
    #expect(short.exporter?.timeLimit == .milliseconds(70))
    let long = try LogExportOptions(environment: all.merging(["OTEL_BLRP_EXPORT_TIMEOUT": "30000"]) { $1 })
    #expect(long.exporter?.timeLimit == .seconds(10))
    let more = ["OTEL_BLRP_MAX_QUEUE_SIZE": "3", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "4"]
    let error = #expect(throws: OTLPOptionsError.self) {
      try LogExportOptions(environment: all.merging(more) { $1 })
    }
    #expect(error?.variable == "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE")
    for name in [
      "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE",
      "OTEL_BLRP_EXPORT_TIMEOUT",
    ] {
      let error = #expect(throws: OTLPOptionsError.self) {
        try LogExportOptions(environment: all.merging([name: "-1"]) { $1 })
      }
      #expect(error?.variable == name)
    }
  }

  @Test("values are read as the specification has them")
  func values() throws {
    let options = try TraceOptions(environment: [
      "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=1",
      "OTEL_EXPORTER_OTLP_TIMEOUT": "1500", "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
      "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
      "OTEL_BSP_SCHEDULE_DELAY": "250", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64", "OTEL_SERVICE_NAME": "shop",
      "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=other",
      "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25",
    ])
    let exporter = try #require(options.exporter)
    #expect(exporter.headers.map(\.name) == ["api-key", "x"] && exporter.headers.map(\.value) == ["a b", "1"])
    #expect(exporter.timeLimit == .milliseconds(1_500) && options.delay == .milliseconds(250))
    #expect(exporter.isCompressed && options.batchLimit == 64)
    #expect(options.resource.map { "\($0)=\($1)" } == ["service.name=shop", "deployment.environment.name=test"])
    #expect(options.sampler == TraceSampler(ratio: 0.25, followsParent: true))
    let plain = try TraceOptions(environment: ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"])
    #expect(plain.sampler == TraceSampler(ratio: 1, followsParent: true))
    #expect(plain.resource.map { "\($0)=\($1)" } == ["service.name=regispay"])
  }

  @Test(
    "what can't be used is refused, by its name",
    arguments: [
      ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://u:p@c"),
      ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
      ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"), ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
      ("OTEL_EXPORTER_OTLP_HEADERS", "a=%0d%0ab"), ("OTEL_EXPORTER_OTLP_HEADERS", "host=x"),
      ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
      ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"), ("OTEL_TRACES_EXPORTER", "zipkin"),
      ("OTEL_TRACES_SAMPLER", "jaeger_remote"), ("OTEL_RESOURCE_ATTRIBUTES", "a"), ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
      ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"), ("OTEL_BSP_EXPORT_TIMEOUT", "0"), ("OTEL_SDK_DISABLED", "maybe"),
      ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c\nfoo"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=%ff"),
      ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,Content-Length=secret"),
    ])
  func mistakes(_ variable: String, _ value: String) throws {
    let error = #expect(throws: OTLPOptionsError.self) {
      try TraceOptions(environment: ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"].merging([variable: value]) { $1 })
    }
    #expect(error?.variable == variable)
    #expect(error?.description.contains("secret") == false)
    #expect(error?.description.contains { $0.isNewline } == false)
  }

  @Test("a header that can't be sent is told by its number, and why, without its value")
  func headers() throws {
    func reason(_ headers: String) -> String? {
      let variables = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": headers]
      return #expect(throws: OTLPOptionsError.self) { try TraceOptions(environment: variables) }?.reason
    }
    let own = reason("a=1,Content-Length=2")
    #expect(own == "header 2: it is one of those that each request has of its own (content-length)")
    #expect(reason("a=%C3%A4") == "header 1: its value may have printable ASCII characters only")
    #expect(reason("a b=1") == "header 1: its name may have the letters a to z, digits, -, _ and . only")
    #expect(reason("a=%zz")?.hasSuffix("percent-encoded") == true)
  }

  @Test("the sampler's argument counts for the ratio alone")
  func argument() throws {
    let environment = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_SAMPLER_ARG": "x"]
    #expect(try TraceOptions(environment: environment).sampler.ratio == 1)
    for ratio in ["x", "-0.1", "1.1", "nan"] {
      #expect(throws: OTLPOptionsError.self) {
        try TraceOptions(
          environment: environment.merging(["OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio]) {
            $1
          })
      }
    }
  }

  @Test("the variables in force are shown, without secrets")
  func shown() {
    let text = OTLPOptions.text([
      "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "key=secret", "OTEL_LOG_LEVEL": "debug",
      "OTEL_SERVICE_NAME": "",
    ])
    #expect(text == "# OTEL_EXPORTER_OTLP_ENDPOINT=http://c\n# OTEL_EXPORTER_OTLP_HEADERS=(hidden)\n")
  }
}
