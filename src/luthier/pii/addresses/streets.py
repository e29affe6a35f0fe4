"""Words of streets in the supported languages, and the towns, countries and regions that often end an address.

A town or country counts only after a street.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _any(words: str) -> str:
    return "(?:" + "|".join(word.replace(".", r"\.") for word in sorted(words.split(), key=len, reverse=True)) + ")"


ROADS = _any("""
street st avenue ave road rd boulevard blvd lane ln drive dr terrace parkway pkwy highway hwy crescent mews court
alleyway cul-de-sac esplanade highroad laneway thoroughfare wynd marg nagar chowk salai
ganj vihar puram zila
""")
"""What follows a name and says of itself that this is a street, in English as Britain, America, Australia and India
write it."""
GROUNDS = _any("""
alley alleys annex approach arcade avenues bayou beach bend bluff boulevards bottom branch bridge brook brooks burg
burgs bypass camp canyon chase circuit cape causeway center centers centre circle circles cir cliff cliffs close club
common commons corner corners course courts cove coves creek crest cross crossing crossroad ct curve dale dam divide
drives estate estates esplanade expressway extension extensions fall falls ferry field fields flat flats ford fords
forest forge forges fork forks fort freeway garden gardens gate gates gateway glen glens green greens grove groves
harbor harbors haven heights highways hill hills hollow inlet island islands isle junction junctions key keys knoll
knolls lake lakes land landing lanes light lights loaf lock locks lodge loop mall manor manors meadow meadows mill
mills mission motorway mount mountain mountains neck orchard oval overpass parade park parks parkways pass passage
path pike pine pines pl place plain plains plaza point points port ports prairie quay radial ramp ranch rapid rapids
rest ridge ridges rise river roads route row rue run shoal shoals shore shores skyway spring springs spur spurs sq
square squares station stravenue stream streets summit throughway towers trace track trafficway trail trails tunnel
turnpike underpass union unions valley valleys via viaduct view views villa village villages ville vista walk walks
wall way ways well wells
access amble anchorage artery basin brae broadway brow byway centreway circlet circus colonnade concourse copse corso
courtyard crossway cruiseway cutting dell driveway elbow fairway firetrail footway foreshore frontage glade grange gully
lees lookout meander mew nook outlook parklands pathway piazza plateau promenade quad quadrangle quadrant quays ramble
reach reserve retreat ride ridgeway riverway riviera roadside roadway ronde rosebowl rotary siding strand subway tarn
tollway tor trailer trunkway vale villas wade walkway colony bazaar bazar enclave
""")
"""The other suffixes of Publication 28 of the United States Postal Service, those of Australia's standard AS 4590 and
of New Zealand, and some of Britain and India, which name much else: they need a proof."""
PLAIN_GROUNDS = _any("""
block brace break deviation dip distributor edge end entrance follow formation front gap ground interchange intersection
line link little lower part pocket range ring round slope sound stairs steps strip top triangle turn upper
""")
"""Suffixes of Australia, too, but such ordinary words that standing apart proves nothing."""
ROMANCE = _any("""
rue avenue av. boulevard bd place chemin impasse allée allé quai cours route passage
square sentier ruelle boul. rte montée côte faubourg hameau cité autoroute promenade
""")
"""What French streets are called, behind their number."""
_FIRST = """
rue chemin impasse ruelle avenue boulevard
calle avenida avda. avda callejón travesía glorieta carretera paseo ronda rambla pasaje
viale piazza piazzale vicolo lungomare corso
rua praça travessa alameda estrada rodovia ladeira beco
ul. ulica aleja aleje plac osiedle náměstí ulice třída
v.le p.za p.zza c.so l.go pza. ctra. blvd. steenweg chaussée str. strada calea bd. bulevardul aleea soseaua drumul
șos. șoseaua splaiul
intrarea piața carrer passeig plaça avinguda jr. jirón psje. bv. cll cra. cra kra carrera transv. jalan jl. jln. lorong
persiaran lebuh lebuhraya thanon đường rruga boul. nábřeží nábř. nám. obala lungarno calz. rte montée rang lotissement
"""
FIRST = _any(_FIRST)
"""What stands before the name of a street, when the number stands behind it."""
_FIRST_AT_TIMES = """
allée quai place cours passage square sentier esplanade promenade faubourg route
c/ av av. avda plaza c. camino callejon cuesta pasadizo cañada costanilla acceso vía via vial barrio urbanización urb.
polígono privada calzada circuito cerrada prolongación bulevar viaducto circunvalación andador retorno continuación
corredor diagonal periférico ampliación peatonal eje
largo stradone borgo contrada salita rotonda incrocio canale stretto galleria vico calle fondamenta campo
piazzetta lungotevere
área aeroporto campo chácara colônia condomínio conjunto distrito esplanada estação favela fazenda feira jardim lago
lagoa loteamento morro núcleo parque passarela pátio praia quadra servidão caminho cais bosque balneário escadaria
passagem rotatória recanto residencial r. setor sítio trecho trevo vale vereda
viaduto viela vila calçada praceta quinta bairro
al. al pl. os. rondo skwer bulwar rynek
soi phố ngõ cité hay côte villa r. diag. kav.
"""
FIRST_AT_TIMES = _any(_FIRST_AT_TIMES)
"""The same, of words that name much else, too; Correios publishes those of Brazil."""
FIRST_WORDS = _words(_FIRST + _FIRST_AT_TIMES)
"""Both, to look first whether one is there at all."""
ENGLISH_TOO = _words("""
place passage square esplanade promenade cours c/ c. av av. plaza camino via vial calzada circuito corredor diagonal
r. largo canale vico campo aeroporto vale vila al. al pl. os. barrio parque condomínio quinta
""")
"""Those of them that need a proof even with a capital."""
SHORT = ("Av", "pl.", "al.", "os.")
"""Short for *avenida*, *plac*, *aleja* and *osiedle*, written so."""
_ALONE = """
alameda travessa praça largo ladeira viela vereda rodovia estrada viaduto quadra condomínio conjunto loteamento
residencial chácara sítio recanto núcleo trecho trevo passarela pátio calçada praceta barrio urbanización pasaje
glorieta callejón travesía paseo vicolo borgo salita contrada
"""
ALONE = _any(_ALONE.title())
"""Words before a name, with a capital, that make a street of it even without a number, where a proof is there."""
_ALONE_TOLD = """
área aeroporto campo colônia distrito esplanada estação favela fazenda feira jardim lago lagoa morro parque praia setor
via vale vila bairro quinta plaza camino strada
"""
ALONE_TOLD = _any(_ALONE_TOLD.title())
"""The same of what else names towns and countryside: somebody has to live there, or want something sent."""
ALONE_WORDS = frozenset((_ALONE + _ALONE_TOLD).title().split())
"""Both, to look first whether one is there at all."""
MEASURES = _words("""
second minute hour day night week month year mile meter metre kilometer kilometre km foot inch yard acre star bedroom
bed bath room person people man seat door wheel lane way part piece page step level speed point player pound dollar
euro ounce gallon litre liter ton hole pack series gb tb mb mp hp ghz mph volt watt percent degree million thousand
hundred billion dozen story storey car hand man minute round stage set side tier track foot mm cm th st nd rd am pm
big small new old great good bad best top key main major simple easy quick more other different common first last next
extra
""")
"""Before a noun in the singular, they make of a number a measure: *24 Hour Access*."""
ENDS = (
    *("straße", "strasse", "str.", "gasse", "straat", "gatan", "vägen", "gränden", "gränd", "stræde", "katu"),
    *("gracht", "veien", "kuja", "polku", "bulevardi", "aukio", "raitti", "utca", "körút", "caddesi", "cad.", "sokak"),
    *("sok.", "sokağı", "bulvarı", "gøta", "stræti", "gårde", "stien", "kalea"),
)
"""How one-word names of streets end in German, Dutch and the languages of the North."""
ENDS_AT_TIMES = (
    *("weg", "platz", "allee", "ring", "damm", "ufer", "chaussee", "steig", "stieg", "zeile", "pfad", "promenade"),
    *("laan", "plein", "dreef", "steeg", "hof", "kade", "baan", "boulevard", "singel", "dijk", "pad", "park", "markt"),
    *("lei", "plassen", "torvet", "kollen", "holtet", "enga", "grenda", "alléen", "berget", "bråten", "eggen", "ekra"),
    *("engen", "flata", "gjerdet", "gropa", "havna", "høgda", "jordet", "lunden", "lyngen", "marka", "moen", "røa"),
    *("skogen", "skrenten", "spranget", "stranda", "stykket", "tjernet", "vollen", "vika"),
    *("torget", "torg", "stigen", "allén", "väg", "gata", "vej", "gade", "allé", "plads", "vænge", "stien", "bakken"),
    *("vegen", "gaten", "vei", "veg", "gate", "svingen", "faret", "haugen", "hagen", "kroken", "toppen", "tunet"),
    *("åsen", "løkka", "myra", "stubben", "ntie", "kotie", "kaari", "penger"),
)
"""Ends that other words have, too: they need a proof."""
ENDS_SELDOM = ("ringen", "lia", "roa", "tie")
"""Ends that even long words have that are no streets (*Australia*, *Thüringen*)."""
LAST = _words("""
utca út tér körút krt. ulica ulice iela gatvė gatve mnt mnt. puiestee cesta trg náměstí třída caddesi cad. sokak sok.
sokağı bulvarı blv. prospektas bulvāris strasse straße
""")
"""Words behind the name of a street, and before its number, that are little else."""
LAST_AT_TIMES = _words("""
u. köz sor sétány rakpart g. pr. al. tn tn. tee pst pst. laukums street st. st avenue ave. ave road rd. rd lane str.
prospekt prospect boulevard blvd square highway drive gata stræti vegur braut ro gil daero dong lu dadao jie nagar
marg salai
""")
"""The same of such as name much else, too, or stand before the number in countries that write it behind."""
LAST_WORDS = LAST | LAST_AT_TIMES
SMALL_ENDS = ("tie", "katu", "kuja", "polku")
"""Finnish words that stand apart behind a name in the genitive (*Wirénin tie*)."""
NO_STREET = _words("""
parkplatz sitzplatz stehplatz stellplatz arbeitsplatz zeltplatz campingplatz spielplatz bahnsteig bürgersteig gehsteig
ausweg rückweg umweg heimweg hinweg radweg during spring string ring bring scoring offering measuring sharing firing
wiring hearing engineering manufacturing monitoring boring bearing earring wedding netzwerk pad auntie ipad launchpad
thinkpad notepad keypad katie mattie hattie bettie bertie scottie christie lottie dottie sweetie necktie bowtie cutie
""")
"""Words with such an end that are no streets."""
NO_ENDS = ("mengen", "ängen", "sprengen", "strengen")
"""Nor are those with these."""
PARTICLES = r"(?:d[ieao]s?|du|del|della|delle|degli|dei|das|dos|de[nrsm]?|las?|los|le|les|el|von|van|het|y|e|św\.|vial)"
"""Small words inside of such names."""
NUMBERED = _words("""
number no nr num chapter version top season episode level phase step day unit page part volume vol issue figure fig
table section item question line error kapitel seite zeile artikel schritt stap étape paso passo round room gate train
bus platform windows ios
""")
"""Words before a number that says which, not how many, and of no house."""
MONTHS = _words("""
janvier février mars avril juin juillet août septembre octobre novembre décembre enero febrero marzo abril mayo junio
julio agosto septiembre octubre noviembre diciembre gennaio febbraio aprile maggio giugno luglio settembre ottobre
dicembre janeiro fevereiro março maio junho julho setembro outubro dezembro januari februari maart mei augustus
""")
"""Months, besides those of the calendar below: no street stands before a year behind them."""
NO_TOWN = _words("""
thanks thank thx regards tel telefon phone mobile email mail fax danke merci gracias grazie obrigado obrigada dank
bedankt tack takk kiitos dziękuję dzięki cheers best kind please bitte mit viele herr frau mr mrs ms dr we i it he she
they you the my our your and but or so ich wir sie er es der die das je nous il elle on order invoice ticket yo no
""")
"""What stands behind the comma after an address, and is no town."""
CALENDAR = _words("""
january february march april may june july august september october november december monday tuesday wednesday
thursday friday saturday sunday jan feb mar apr jun jul aug sep sept oct nov dec januar februar märz mai juni juli
oktober dezember montag dienstag mittwoch donnerstag freitag samstag sonntag uhr
""")
"""What stands behind the number of a day or an hour, and is no street."""


def _towns_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLACES = _towns_words("""
usa uk england scotland wales ireland canada australia zealand germany deutschland austria österreich switzerland
schweiz suisse france belgium belgië belgique netherlands nederland luxembourg spain españa portugal italy italia
greece poland polska czechia česko slovakia slovensko hungary magyarország romania românia bulgaria serbia srbija
croatia hrvatska slovenia slovenija bosnia albania macedonia kosovo montenegro estonia eesti latvia latvija
lithuania lietuva finland suomi sweden sverige norway norge denmark danmark iceland ísland turkey türkiye cyprus
malta israel lebanon jordan egypt morocco maroc algeria algérie tunisia tunisie senegal ghana nigeria kenya uganda
tanzania ethiopia angola mozambique moçambique namibia botswana zimbabwe zambia mauritius india pakistan bangladesh
lanka nepal singapore malaysia indonesia philippines thailand vietnam china taiwan japan korea kazakhstan uzbekistan
georgia armenia azerbaijan ukraine belarus russia emirates uae qatar kuwait bahrain oman arabia mexico méxico
guatemala salvador honduras nicaragua panama panamá colombia venezuela ecuador peru perú bolivia chile argentina
uruguay paraguay brazil brasil cuba jamaica trinidad barbados bahamas london leeds manchester birmingham liverpool
bristol sheffield edinburgh glasgow cardiff belfast nottingham leicester oxford cambridge brighton southampton
norwich dublin cork galway limerick york brooklyn angeles chicago houston phoenix philadelphia antonio diego dallas
austin jacksonville francisco columbus indianapolis seattle denver boston nashville detroit portland memphis vegas
baltimore milwaukee albuquerque tucson fresno sacramento atlanta omaha miami oakland minneapolis tampa orleans
cleveland honolulu pittsburgh cincinnati toronto montréal montreal québec vancouver calgary edmonton ottawa winnipeg
halifax gatineau sydney melbourne brisbane perth adelaide canberra hobart darwin auckland wellington
christchurch dunedin berlin hamburg münchen munich köln cologne frankfurt stuttgart düsseldorf leipzig dortmund
essen bremen dresden hannover nürnberg duisburg bochum bonn münster karlsruhe mannheim wien vienna graz linz
salzburg innsbruck zürich zurich genève geneva basel bern lausanne winterthur luzern paris lyon marseille toulouse
nice nantes strasbourg montpellier bordeaux lille rennes reims grenoble dijon angers nîmes bruxelles brussel
brussels antwerpen gent gand liège leuven charleroi amsterdam rotterdam haag utrecht eindhoven groningen delft
haarlem leiden madrid barcelona valencia sevilla zaragoza málaga murcia bilbao alicante córdoba valladolid vigo
granada lisboa lisbon porto braga coimbra faro roma rome milano milan napoli torino palermo genova bologna firenze
florence catania venezia verona warszawa kraków łódź wrocław poznań gdańsk szczecin lublin katowice praha
prague brno ostrava plzeň bratislava košice budapest debrecen szeged pécs győr miskolc bucurești bucharest
cluj-napoca iași timișoara constanța brașov sofia plovdiv varna beograd belgrade zagreb rijeka ljubljana
maribor sarajevo skopje tirana podgorica priština pristina stockholm göteborg malmö uppsala umeå oslo bergen
trondheim stavanger tromsø københavn copenhagen aarhus odense aalborg helsinki tampere turku oulu espoo reykjavík
tallinn tartu riga rīga vilnius kaunas athens thessaloniki istanbul ankara izmir bursa antalya kyiv lviv odesa minsk
moscow petersburg tbilisi yerevan baku astana almaty tashkent bishkek dushanbe jerusalem haifa aviv beirut amman
cairo alexandria casablanca rabat alger oran tunis dakar abidjan accra lagos abuja nairobi kampala johannesburg
durban pretoria luanda maputo windhoek mumbai delhi bengaluru bangalore hyderabad chennai kolkata pune ahmedabad
jaipur lucknow kanpur nagpur indore kochi noida gurgaon gurugram karnataka maharashtra telangana kerala gujarat
karachi lahore islamabad rawalpindi dhaka chattogram chittagong sylhet colombo kathmandu singapore kowloon lumpur
penang johor jakarta bandung surabaya yogyakarta manila makati quezon cebu davao bangkok phuket hanoi minh
beijing shanghai guangzhou shenzhen chengdu wuhan nanjing hangzhou taipei kaohsiung tokyo osaka kyoto yokohama
nagoya sapporo fukuoka kobe seoul busan incheon daegu dubai dhabi sharjah riyadh jeddah doha muscat manama
guadalajara monterrey puebla tijuana mérida cancún cdmx bogotá bogota medellín cali barranquilla cartagena caracas
quito guayaquil lima arequipa trujillo cusco miraflores santiago valparaíso concepción providencia aires rosario
mendoza caba montevideo asunción havana habana paulo janeiro brasília salvador fortaleza belo horizonte recife
curitiba manaus
""")
REGIONS = _towns_words("""
AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI
SC SD TN TX UT VT VA WA WV WI WY DC PR BC AB SK MB ON QC NB NS NL PE NSW VIC QLD TAS ACT NT SP RJ MG RS SC BA CE DF
""")
"""States and provinces as they are shortened."""
